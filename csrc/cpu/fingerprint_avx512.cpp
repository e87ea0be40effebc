#include "fingerprint.h"

namespace gloro_fast::cpu::detail {

namespace {

constexpr int64_t kLanes = 8;
typedef uint64_t Words __attribute__((vector_size(8 * kLanes)));

}  // namespace

// The portable loop, eight words at a time; x86-64 has 64-bit products in vector registers from here on.
uint64_t fingerprint_avx512(const uint8_t* data, int64_t word_begin, int64_t word_end) {
  const auto first = static_cast<uint64_t>(word_begin) + 1;
  Words place = (first + Words{0, 1, 2, 3, 4, 5, 6, 7}) * kStep;
  Words sum = {};
  for (int64_t i = word_begin; i < word_end; i += kLanes) {
    Words x;
    __builtin_memcpy(&x, data + 8 * i, sizeof x);
    x += place;
    place += kLanes * kStep;
    x = (x ^ (x >> 32)) * kMultiplier1;
    x = (x ^ (x >> 29)) * kMultiplier2;
    sum += x ^ (x >> 32);
  }
  uint64_t total = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) total += sum[lane];
  return total;
}

}  // namespace gloro_fast::cpu::detail
