// Always compiled without ThreadSanitizer, whose business the bookkeeping here is not; FIBERS_THREAD_SANITIZER tells
// that the program is linked with it.
#include "fiber.h"

#include <sys/mman.h>

#include <stdexcept>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(FIBERS_THREAD_SANITIZER)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
constexpr unsigned kNoOrder = 1;  // a switch alone orders nothing
#endif

namespace fibers {

Fiber* running;
Token begin, end;

namespace {

constexpr size_t kStack = 256 << 10;

#if defined(__SANITIZE_ADDRESS__)
void* main_fake_stack;
const void* main_stack;
size_t main_stack_size;
#endif
#if defined(FIBERS_THREAD_SANITIZER)
void* main_sanitizer;
#endif

#if defined(__x86_64__)
void* main_stack_pointer;
// Keeps what the calling convention says a function must keep, and goes on where `to` was left.
extern "C" void fibers_switch(void** from, void* to);
asm(".text\n"
    ".globl fibers_switch\n"
    "fibers_switch:\n"
    "  pushq %rbx\n  pushq %rbp\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbp\n  popq %rbx\n"
    "  ret\n");
#else
ucontext_t main_context;
#endif

// Stacks are kept from launch to launch: making and clearing them would take longer than most launches.
std::vector<char*> spare_stacks;

char* take_stack() {
  if (!spare_stacks.empty()) {
    char* const stack = spare_stacks.back();
    spare_stacks.pop_back();
    return stack;
  }
  void* const memory =
      mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("fibers: no memory for stacks");
  return static_cast<char*>(memory);
}

}  // namespace

void Token::release() {
#if defined(FIBERS_THREAD_SANITIZER)
  __tsan_release(this);
#endif
}

void Token::acquire() {
#if defined(FIBERS_THREAD_SANITIZER)
  __tsan_acquire(this);
#endif
}

void prepare(Fiber& fiber, void (*first_steps)()) {
  fiber.stack = take_stack();
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack, kStack);
#endif
#if defined(__x86_64__)
  // As if it had called fibers_switch from the first of its steps: six registers, then the address.
  void** top = reinterpret_cast<void**>(fiber.stack + kStack) - 2;
  *top = reinterpret_cast<void*>(first_steps);
  fiber.stack_pointer = top - 6;
  std::fill(top - 6, top, nullptr);
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStack;
  makecontext(&fiber.context, first_steps, 0);
#endif
#if defined(FIBERS_THREAD_SANITIZER)
  fiber.sanitizer = __tsan_create_fiber(0);
#endif
}

void release(Fiber& fiber) {
  spare_stacks.push_back(fiber.stack);
#if defined(FIBERS_THREAD_SANITIZER)
  __tsan_destroy_fiber(fiber.sanitizer);
#endif
}

void prepare_thread() {
#if defined(FIBERS_THREAD_SANITIZER)
  main_sanitizer = __tsan_get_current_fiber();
#endif
}

void enter(Fiber& fiber) {
  running = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&main_fake_stack, fiber.stack, kStack);
#endif
#if defined(FIBERS_THREAD_SANITIZER)
  __tsan_switch_to_fiber(fiber.sanitizer, kNoOrder);
#endif
#if defined(__x86_64__)
  fibers_switch(&main_stack_pointer, fiber.stack_pointer);
#else
  swapcontext(&main_context, &fiber.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(main_fake_stack, nullptr, nullptr);
#endif
  running = nullptr;
}

void begin_steps() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &main_stack, &main_stack_size);
#endif
  begin.acquire();
}

void leave([[maybe_unused]] bool for_good) {
  [[maybe_unused]] Fiber& fiber = *running;
  end.release();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, main_stack, main_stack_size);
#endif
#if defined(FIBERS_THREAD_SANITIZER)
  __tsan_switch_to_fiber(main_sanitizer, kNoOrder);
#endif
#if defined(__x86_64__)
  fibers_switch(&fiber.stack_pointer, main_stack_pointer);
#else
  swapcontext(&fiber.context, &main_context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &main_stack, &main_stack_size);
#endif
}

std::string describe(const Fiber& fiber) {
  const char* slash = fiber.site.file == nullptr ? nullptr : std::strrchr(fiber.site.file, '/');
  return "block " + std::to_string(fiber.position.block.x) + " thread " + std::to_string(fiber.position.thread.x) +
         " at " + (slash != nullptr ? slash + 1 : "its start") + ":" + std::to_string(fiber.site.line);
}

}  // namespace fibers
