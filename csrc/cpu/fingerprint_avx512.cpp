#include "fingerprint_vector.h"

namespace gloro_fast::cpu::detail {

namespace {

typedef uint64_t Words __attribute__((vector_size(64)));

}  // namespace

uint64_t fingerprint_avx512(const uint8_t* data, int64_t word_begin, int64_t word_end) {
  return vectors_of_words<Words>(data, word_begin, word_end);
}

}  // namespace gloro_fast::cpu::detail
