// The portable loop of the hash, a vector of words at a time, for the files that are compiled for a level: in an
// unnamed namespace, so that each has a copy of its own.
#pragma once

#include "fingerprint.h"

namespace gloro_fast::cpu::detail {

namespace {

// Words is a vector of uint64_t; the number of full words [word_begin, word_end) is a multiple of its lanes.
template <typename Words>
uint64_t vectors_of_words(const uint8_t* data, int64_t word_begin, int64_t word_end) {
  constexpr int64_t kLanes = sizeof(Words) / 8;
  Words place;
  for (int64_t lane = 0; lane < kLanes; ++lane) place[lane] = static_cast<uint64_t>(word_begin + lane + 1) * kStep;
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

}  // namespace

}  // namespace gloro_fast::cpu::detail
