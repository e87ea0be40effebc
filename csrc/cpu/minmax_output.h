// Where results go: straight to memory, or by way of a buffer that stays in the first-level cache and from which
// whole lines of 64 bytes are sent.
//
// An ordinary store to memory that is not in the caches reads it first. On outputs larger than the caches that is
// a third of all traffic. Non-temporal stores do without, but only for whole aligned lines, and the rows of a
// picture of odd size begin anywhere. Ordinary stores gain as well: those that straddle two lines cost half as
// much again where the output is not in the caches (measured: rows of 1,001 floats 1.4 times faster by the buffer).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "minmax_blocks.h"

namespace gloro_fast::cpu {

namespace {

constexpr int64_t kBufferBytes = 16384;

struct Direct {
  static constexpr int64_t kCapacity = INT64_MAX;
  template <typename T>
  T* place(T* destination, int64_t) {
    return destination;
  }
};

// kAround: past the caches.
template <typename Lanes, bool kAround>
class Buffered {
 public:
  static constexpr int64_t kCapacity = kBufferBytes;

  Buffered() = default;
  Buffered(const Buffered&) = delete;
  Buffered& operator=(const Buffered&) = delete;
  ~Buffered() {
    flush();
    if constexpr (kAround) Lanes::fence();
  }

  // Where to write `count` values that are meant for `destination`, at most kCapacity bytes. They may be written
  // until the next call.
  template <typename T>
  T* place(T* destination, int64_t count) {
    auto* const bytes = reinterpret_cast<unsigned char*>(destination);
    const int64_t size = count * static_cast<int64_t>(sizeof(T));
    if (bytes != end_ || used_ + size > kCapacity) {
      flush();
      begin_ = end_ = bytes;
      used_ = 0;
      offset_ = static_cast<int64_t>(reinterpret_cast<uintptr_t>(bytes) % kLine);
    }
    unsigned char* const here = buffer_ + offset_ + used_;
    end_ += size;
    used_ += size;
    return reinterpret_cast<T*>(here);
  }

 private:
  static constexpr int64_t kLine = 64;

  [[gnu::noinline]] void flush() {
    const unsigned char* from = buffer_ + offset_;
    const int64_t head = smaller((kLine - offset_) % kLine, used_);
    const int64_t lines = (used_ - head) / kLine * kLine;
    std::memcpy(begin_, from, static_cast<size_t>(head));
    Lanes::template send<kAround>(begin_ + head, from + head, lines);
    std::memcpy(begin_ + head + lines, from + head + lines, static_cast<size_t>(used_ - head - lines));
  }

  alignas(kLine) unsigned char buffer_[kCapacity + kLine];
  unsigned char* begin_ = buffer_;  // destination of what the buffer holds
  unsigned char* end_ = nullptr;
  int64_t used_ = 0;
  int64_t offset_ = 0;  // the destination's place in its line, and so the first value's in the buffer
};

// The two output rows of a pair, piece by piece. They lie one behind the other: where both fit into the buffer
// they go through one, and so do the rows after them; else each has a buffer of its own.
template <typename Output, typename T>
class PairOfRows {
 public:
  explicit PairOfRows(int64_t length)
      : length_(length), together_(length <= Output::kCapacity / (2 * static_cast<int64_t>(sizeof(T)))) {}

  void start(T* destination) {
    destination_ = destination;
    if (together_) both_ = first_output_.place(destination, 2 * length_);
  }

  // Where values [begin, end) of the two rows are to be written.
  void place(int64_t begin, int64_t end, T*& first, T*& second) {
    first = together_ ? both_ + begin : first_output_.place(destination_ + begin, end - begin);
    second = together_ ? both_ + length_ + begin : second_output_.place(destination_ + length_ + begin, end - begin);
  }

 private:
  int64_t length_;
  bool together_;
  T* destination_ = nullptr;
  T* both_ = nullptr;
  Output first_output_;
  Output second_output_;
};

}  // namespace

}  // namespace gloro_fast::cpu
