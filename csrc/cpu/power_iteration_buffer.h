// Memory for the working values of a layer: aligned to a cache line, not initialised, freed with its owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace gloro_fast::cpu {

namespace detail {
inline constexpr std::align_val_t kCacheLine{64};
struct FreeAligned {
  void operator()(void* memory) const { ::operator delete(memory, kCacheLine); }
};
}  // namespace detail

template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size = 0)
      : memory_(size > 0 ? ::operator new(static_cast<size_t>(size) * sizeof(T), detail::kCacheLine) : nullptr),
        size_(size) {}

  T* data() { return static_cast<T*>(memory_.get()); }
  const T* data() const { return static_cast<const T*>(memory_.get()); }
  int64_t size() const { return size_; }

 private:
  std::unique_ptr<void, detail::FreeAligned> memory_;
  int64_t size_;
};

}  // namespace gloro_fast::cpu
