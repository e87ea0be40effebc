// An array that ends where unreadable memory begins: AddressSanitizer does not look into the masked loads and
// stores of vector code, the processor does. What lies before the array is poisoned where the sanitizer runs.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

template <typename T>
struct Guarded {
  explicit Guarded(int64_t count) : size(count) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = sizeof(T) * static_cast<size_t>(count);
    readable_ = (bytes + page - 1) / page * page + page;
    mapped_ = readable_ + page;
    start_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (start_ == MAP_FAILED || mprotect(start_ + readable_, page, PROT_NONE) != 0) std::abort();
    data = reinterpret_cast<T*>(start_ + readable_ - bytes);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(start_, readable_ - bytes);
#endif
  }
  ~Guarded() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(start_, readable_);
#endif
    munmap(start_, mapped_);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data;
  int64_t size;

 private:
  char* start_;
  size_t readable_, mapped_;
};
