// How results get to memory: with ordinary stores, or streamed past the caches, and for rows that begin anywhere
// shifted in the registers so that stores are whole.
//
// An ordinary store to memory that is not in the caches reads it first. On outputs larger than the caches that is
// a third of all traffic. Streaming does without, but for whole lines only, and the rows of a picture of odd size
// begin anywhere. (A line of which one half is streamed and one stored takes many times as long: measured.) Ordinary
// stores gain as well, since those that straddle two lines cost two (measured: rows of 399 or 1,023 floats take 0.6 to
// 0.8 times as long, in the caches and out of them).
#pragma once

#include "minmax_blocks.h"

namespace gloro_fast::cpu {

namespace {

// kAround: past the caches; p is aligned to a line then.
template <typename Lanes, bool kAround, typename T>
[[gnu::always_inline]] inline void put(T* p, const typename Lanes::Raw& a) {
  if constexpr (kAround) {
    Lanes::stream(p, a);
  } else {
    Lanes::store(p, a);
  }
}

template <typename Lanes, bool kAround, typename T>
[[gnu::always_inline]] inline void put_pairs(T* p, const typename Lanes::Raw& a, const typename Lanes::Raw& b) {
  if constexpr (kAround) {
    Lanes::stream_pairs(p, a, b);
  } else {
    Lanes::store_pairs(p, a, b);
  }
}

// The two output rows of a pair, which lie one behind the other, block by block: start, then where kOpens open with
// the first block, then put with every whole block, then end with the n values left, 0 <= n < kPairsPerBlock.
template <typename Lanes, typename T, bool kAround>
class PlainRows {
  using Raw = typename Lanes::Raw;

 public:
  static constexpr bool kOpens = false;

  explicit PlainRows(int64_t length) : length_(length) {}

  void start(T* destination) { next_ = destination; }

  [[gnu::always_inline]] void put(const Raw& a, const Raw& b) {
    cpu::put<Lanes, kAround>(next_, a);
    cpu::put<Lanes, kAround>(next_ + length_, b);
    next_ += kPairsPerBlock;
  }

  void end(const Raw& a, const Raw& b, int64_t n) {
    if (n == 0) return;
    Lanes::store(next_, a, n);
    Lanes::store(next_ + length_, b, n);
  }

 private:
  int64_t length_;
  T* next_ = nullptr;
};

// The same for rows that begin anywhere in a line, of one block at the least. The first block has a call of its
// own since a question in every block costs more than the shift (AVX2: 1.3 times as long).
template <typename Lanes, typename T, bool kAround>
class ShiftedRows {
  using Raw = typename Lanes::Raw;

  class Row {
   public:
    void start(T* destination) {
      shift_ = static_cast<int64_t>(reinterpret_cast<uintptr_t>(destination) % kLine / sizeof(T));
      shifted_ = typename Lanes::Shift(shift_);
      next_ = destination - shift_;
    }

    void open(const Raw& a) {
      const Raw shifted = shifted_(a);
      if (shift_ == 0) {
        cpu::put<Lanes, kAround>(next_, shifted);
      } else {  // the line is shared with what lies before the row
        Lanes::store(next_ + shift_, a, kPairsPerBlock - shift_);
      }
      next_ += kPairsPerBlock;
    }

    [[gnu::always_inline]] void put(const Raw& a) {
      cpu::put<Lanes, kAround>(next_, shifted_(a));
      next_ += kPairsPerBlock;
    }

    void end(const Raw& a, int64_t n) {
      int64_t left = shift_ + n;
      Raw shifted = shifted_(a);
      if (left >= kPairsPerBlock) {
        cpu::put<Lanes, kAround>(next_, shifted);
        next_ += kPairsPerBlock;
        left -= kPairsPerBlock;
        shifted = shifted_(a);
      }
      if (left > 0) Lanes::store(next_, shifted, left);
    }

   private:
    typename Lanes::Shift shifted_{0};
    T* next_ = nullptr;
    int64_t shift_ = 0;
  };

 public:
  static constexpr bool kOpens = true;

  explicit ShiftedRows(int64_t length) : length_(length) {}

  void start(T* destination) {
    first_.start(destination);
    second_.start(destination + length_);
  }

  void open(const Raw& a, const Raw& b) {
    first_.open(a);
    second_.open(b);
  }

  [[gnu::always_inline]] void put(const Raw& a, const Raw& b) {
    first_.put(a);
    second_.put(b);
  }

  void end(const Raw& a, const Raw& b, int64_t n) {
    first_.end(a, n);
    second_.end(b, n);
  }

 private:
  int64_t length_;
  Row first_, second_;
};

}  // namespace

}  // namespace gloro_fast::cpu
