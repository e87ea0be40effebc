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
// Stacks at the same place of their pages would take each other's lines of the cache at every switch.
constexpr size_t kPitch = kStack + 5 * 64;

#if defined(__SANITIZE_ADDRESS__)
void* main_fake_stack;
const void* main_stack;
size_t main_stack_size;
bool entered;  // the switch comes from `enter`
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

struct Stack {
  char* memory;
  void* sanitizer;  // ThreadSanitizer's fiber, null before the first use
};
// Stacks are kept from launch to launch: making and clearing them would take longer than most launches. A fiber's start
// comes after all that was done on its stack before (`begin`), so that ThreadSanitizer's is kept, too.
std::vector<Stack> spare_stacks;

Stack take_stack() {
  if (!spare_stacks.empty()) {
    const Stack stack = spare_stacks.back();
    spare_stacks.pop_back();
    return stack;
  }
  constexpr size_t kAtOnce = 256;
  void* const memory =
      mmap(nullptr, kAtOnce * kPitch, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("fibers: no memory for stacks");
  for (size_t i = kAtOnce - 1; i > 0; --i) spare_stacks.push_back({static_cast<char*>(memory) + i * kPitch, nullptr});
  return {static_cast<char*>(memory), nullptr};
}

#if defined(__SANITIZE_ADDRESS__)
// Tells that a fiber's stack is in use, and learns where the stack lies from which fibers are entered.
void arrive(void* fake_stack) {
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
  if (entered) main_stack = bottom, main_stack_size = size;
  entered = false;
}
#endif

// From the running fiber to `next`, or to where fibers are entered; `for_good`: never to come back.
void go_over(Fiber* next, [[maybe_unused]] bool for_good) {
  Fiber& fiber = *running;
  end.release();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, next != nullptr ? next->stack : main_stack,
                                 next != nullptr ? kStack : main_stack_size);
#endif
#if defined(FIBERS_THREAD_SANITIZER)
  __tsan_switch_to_fiber(next != nullptr ? next->sanitizer : main_sanitizer, kNoOrder);
#endif
  running = next;
#if defined(__x86_64__)
  fibers_switch(&fiber.stack_pointer, next != nullptr ? next->stack_pointer : main_stack_pointer);
#else
  swapcontext(&fiber.context, next != nullptr ? &next->context : &main_context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  arrive(fiber.fake_stack);
#endif
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
  const Stack stack = take_stack();
  fiber.stack = stack.memory;
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
  fiber.sanitizer = stack.sanitizer != nullptr ? stack.sanitizer : __tsan_create_fiber(0);
#endif
}

void release(Fiber& fiber) {
  spare_stacks.push_back({fiber.stack, fiber.sanitizer});
}

void prepare_thread() {
#if defined(FIBERS_THREAD_SANITIZER)
  main_sanitizer = __tsan_get_current_fiber();
#endif
}

void enter(Fiber& fiber) {
  running = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  entered = true;
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
  arrive(nullptr);
#endif
  begin.acquire();
}

void leave() {
  go_over(next_in_turn(), false);
}

void leave_for_good() {
  go_over(nullptr, true);
}

std::string describe(const Fiber& fiber) {
  const char* slash = fiber.site.file == nullptr ? nullptr : std::strrchr(fiber.site.file, '/');
  return "block " + std::to_string(fiber.position.block.x) + " thread " + std::to_string(fiber.position.thread.x) +
         " at " + (slash != nullptr ? slash + 1 : "its start") + ":" + std::to_string(fiber.site.line);
}

}  // namespace fibers
