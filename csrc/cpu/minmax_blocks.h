// What the loops of MinMax share: the blocks they work on, and what they ask of an instruction set.
//
// The loops are written once for all instruction sets; the file of each brings `Lanes`:
//
//   Raw, Wide                   kPairsPerBlock values of T as stored; as many sums
//   load(p), store(p, raw)      kPairsPerBlock values; load(p, n) and store(p, raw, n), 0 < n < kPairsPerBlock, touch
//                               only the first n and read zeros for the others
//   load_pairs(p, a, b)         the first and the second members of kPairsPerBlock pairs, in any order of the lanes;
//   store_pairs(p, a, b)        with n after p: of n pairs
//   in_order(bits)              from that order of the lanes to the one of the pairs, and back
//   broadcast(value)            the same value in all lanes
//   plus(raw, raw)              the sum, rounded to T
//   sort(a, b)                  the lanes of both sorted, either NaN making both the quiet NaN; gives the bits
//   route(bits, a, b)           exchanges a and b where the bit is set
//   zero(), add(wide, raw)      sums
//   total(wide)                 the sum of all lanes: lane i + 8 on lane i, then i + 4, i + 2, i + 1
//   load_sums(p), store_sums(p, wide)
//   store_sums_of_pairs(p, a, b)  sums in the order of lanes of load_pairs, to the order of the pairs
//
//   kColumn                     blocks whose sums are held in registers side by side
//   kStreams                    whether what follows exists
//   stream(p, raw), stream_pairs(p, a, b)   as store and store_pairs, past the caches, p aligned to a line
//   fence()                     puts what went past the caches before whatever is written after
//   Shift                       where a block fills a line: shift(raw) of a Shift shift(n), n less than the values of a
//                               line, for one block after the other; the last n values of the block before, then the
//                               first ones of this
//
// Left to itself GCC calls some of these, with the registers passed through memory (AVX2: half the speed); hence
// [[gnu::flatten]] on the loops, which inlines all that they call.
//
// Sums are taken over 16 lanes whatever the vector width, so that all instruction sets give the same bits.
// Everything here is in an unnamed namespace: each file keeps the copy of its own instruction set (simd.h).
#pragma once

#include <cstring>

#include "minmax.h"

namespace gloro_fast::cpu {

namespace {

constexpr int64_t kLine = 64;  // bytes

// Values of a row over which sums are taken before they start afresh.
constexpr int64_t kValuesPerTile = 1024;

constexpr int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

template <typename V>
struct Scratch {
  explicit Scratch(int64_t size) : data(new V[static_cast<size_t>(size)]) {}
  ~Scratch() { delete[] data; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  V* data;
};

// The channels of an interleaved run come round every `pairs` pairs, blocks every 16: both every `pairs` * strands.
struct Period {
  explicit Period(int64_t pairs) : strands(kPairsPerBlock) {
    for (int64_t rest = pairs; rest % 2 == 0 && strands > 1; rest /= 2) strands /= 2;
    length = pairs * strands;
  }
  int64_t strands;
  int64_t length;  // in pairs
};

[[gnu::always_inline]] inline unsigned load_bits(const uint8_t* mask, int64_t pairs = kPairsPerBlock) {
  return pairs > 8 ? mask[0] | unsigned{mask[1]} << 8 : mask[0];
}

// Bits of four blocks.
[[gnu::always_inline]] inline uint64_t load_bits_of_four(const uint8_t* mask) {
  uint64_t all = 0;
  for (int byte = 0; byte < 8; ++byte) all |= uint64_t{mask[byte]} << 8 * byte;
  return all;
}

[[gnu::always_inline]] inline void store_bits(uint8_t* mask, unsigned bits, int64_t pairs = kPairsPerBlock) {
  bits &= (1u << pairs) - 1;
  mask[0] = static_cast<uint8_t>(bits);
  if (pairs > 8) mask[1] = static_cast<uint8_t>(bits >> 8);
}

// The same, in one store: stores leave the processor in order, and more of them between those of the
// values keep fewer lines of the output on their way (measured: 1.5 times slower with a store a block).
[[gnu::always_inline]] inline void store_bits_of_four(uint8_t* mask, const uint64_t (&bits)[4]) {
  const uint64_t all = bits[0] | bits[1] << 16 | bits[2] << 32 | bits[3] << 48;
  for (int byte = 0; byte < 8; ++byte) mask[byte] = static_cast<uint8_t>(all >> 8 * byte);
}

}  // namespace

}  // namespace gloro_fast::cpu
