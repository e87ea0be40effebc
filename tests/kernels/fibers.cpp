// Always compiled without ThreadSanitizer, whose business the bookkeeping here is not; FIBERS_THREAD_SANITIZER tells
// that the program is linked with it.
#include "fibers.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
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

namespace {

// What is told to ThreadSanitizer: everything before a release is seen after the acquires of the same token.
struct Token {
  void release() {
#if defined(FIBERS_THREAD_SANITIZER)
    __tsan_release(this);
#endif
  }
  void acquire() {
#if defined(FIBERS_THREAD_SANITIZER)
    __tsan_acquire(this);
#endif
  }
  char unused = 0;
};

// A point where threads wait until all are there. Two tokens in turn, so that a fast thread's next arrival does not
// order a slow one's departure.
struct Meeting {
  unsigned waiting = 0;
  unsigned round = 0;
  Site site{};
  Token token[2];
};

enum class State { ready, waits, finished };

struct Block;

struct Fiber {
  Position position{};
  Block* block = nullptr;
  State state = State::ready;
  Site site{};
  uint64_t value = 0;
  void* stack_pointer = nullptr;
  char* stack = nullptr;
#if !defined(__x86_64__)
  ucontext_t context{};
#endif
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif
#if defined(FIBERS_THREAD_SANITIZER)
  void* sanitizer = nullptr;
#endif
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Meeting> warps;
  Meeting all;
  unsigned finished = 0;
  std::unique_ptr<char[], void (*)(void*)> memory{nullptr, std::free};
};

constexpr size_t kStack = 256 << 10;

const std::function<void()>* kernel;
Fiber* running;
bool progress;  // something happened that others may wait for
std::string error;
Meeting grid;
unsigned grid_size;
std::vector<std::unique_ptr<Block>>* blocks_alive;
Token begin, end;

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

void leave([[maybe_unused]] bool for_good = false) {
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

std::string describe(const Fiber& fiber) {
  const char* slash = fiber.site.file == nullptr ? nullptr : std::strrchr(fiber.site.file, '/');
  return "block " + std::to_string(fiber.position.block.x) + " thread " + std::to_string(fiber.position.thread.x) +
         " at " + (slash != nullptr ? slash + 1 : "its start") + ":" + std::to_string(fiber.site.line);
}

[[noreturn]] void fail(const std::string& message) {
  error = message;
  leave(true);
  std::abort();
}

void first_steps() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &main_stack, &main_stack_size);
#endif
  begin.acquire();
  (*kernel)();
  running->state = State::finished;
  ++running->block->finished;
  progress = true;
  if (running->block->all.waiting > 0) fail(describe(*running) + " has left, others of its block wait at a barrier");
  leave(true);
  std::abort();
}

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

void prepare(Fiber& fiber) {
  fiber.stack = take_stack();
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack, kStack);
#endif
#if defined(__x86_64__)
  // As if it had called fibers_switch from where first_steps begins: six registers, then the address.
  void** top = reinterpret_cast<void**>(fiber.stack + kStack) - 2;
  *top = reinterpret_cast<void*>(&first_steps);
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

std::unique_ptr<Block> make_block(const Shape& shape, unsigned number) {
  auto block = std::make_unique<Block>();
  block->fibers.resize(shape.threads);
  block->warps.resize((shape.threads + 31) / 32);
  // Of its own, so that AddressSanitizer guards its ends.
  block->memory.reset(
      static_cast<char*>(std::aligned_alloc(16, (std::max<size_t>(shape.shared_bytes, 1) + 15) / 16 * 16)));
  std::memset(block->memory.get(), 0xff, shape.shared_bytes);
  for (unsigned i = 0; i < shape.threads; ++i) {
    Fiber& fiber = block->fibers[i];
    fiber.position = {{i}, {number}};
    fiber.block = block.get();
    prepare(fiber);
  }
  return block;
}

void release(Block& block) {
  for (Fiber& fiber : block.fibers) {
    spare_stacks.push_back(fiber.stack);
#if defined(FIBERS_THREAD_SANITIZER)
    __tsan_destroy_fiber(fiber.sanitizer);
#endif
  }
}

// The order in which blocks, or threads of a block, take their turns.
class Order {
 public:
  explicit Order(unsigned schedule) : schedule_(schedule), random_(schedule) {}
  const std::vector<unsigned>& next(size_t size) {
    order_.resize(size);
    std::iota(order_.begin(), order_.end(), 0u);
    if (schedule_ == 1) std::reverse(order_.begin(), order_.end());
    if (schedule_ > 1) std::shuffle(order_.begin(), order_.end(), random_);
    return order_;
  }

 private:
  unsigned schedule_;
  std::mt19937 random_;
  std::vector<unsigned> order_;
};

// Waits until `size` threads are there; the last one does `release` for all and goes on.
template <typename Release>
void meet(Meeting& meeting, unsigned size, Site site, const char* what, const Release& release) {
  Fiber& fiber = *running;
  fiber.site = site;
  if (meeting.waiting == 0) meeting.site = site;
  if (meeting.site.line != site.line || std::strcmp(meeting.site.file, site.file) != 0)
    fail(std::string("divergent ") + what + ": " + describe(fiber) + ", others at line " +
         std::to_string(meeting.site.line));
  Token& token = meeting.token[meeting.round % 2];
  token.release();
  if (++meeting.waiting == size) {
    meeting.waiting = 0;
    ++meeting.round;
    progress = true;
    release();
  } else {
    fiber.state = State::waits;
    leave();
  }
  token.acquire();
}

void wake(Fiber& fiber) {
  if (fiber.state == State::waits) fiber.state = State::ready;
}

void run_round(std::vector<std::unique_ptr<Block>>& blocks, Order& block_order, Order& thread_order) {
  const std::vector<unsigned> order = block_order.next(blocks.size());
  for (const unsigned b : order) {
    const std::vector<unsigned> threads = thread_order.next(blocks[b]->fibers.size());
    for (const unsigned t : threads) {
      Fiber& fiber = blocks[b]->fibers[t];
      if (fiber.state == State::ready) enter(fiber);
      if (!error.empty()) return;
    }
  }
}

}  // namespace

const Position& position() {
  return running->position;
}

void* shared_memory() {
  return running->block->memory.get();
}

void block_barrier(Site site) {
  Block& block = *running->block;
  if (block.finished > 0) fail(describe(*running) + ": a barrier that threads which have left never reach");
  meet(block.all, static_cast<unsigned>(block.fibers.size()), site, "barrier", [&] {
    for (Fiber& fiber : block.fibers) wake(fiber);
  });
}

void grid_barrier(Site site) {
  meet(grid, grid_size, site, "grid barrier", [] {
    for (const auto& block : *blocks_alive)
      for (Fiber& fiber : block->fibers) wake(fiber);
  });
}

uint64_t exchange(uint64_t value, unsigned lanes, Site site) {
  Fiber& mine = *running;
  Block& block = *mine.block;
  const unsigned first = mine.position.thread.x / 32 * 32;
  mine.value = value;
  Meeting& meeting = block.warps[first / 32];
  // No token: a shuffle orders no memory. Values go back by way of the fibers, two phases apart.
  mine.site = site;
  if (meeting.waiting == 0) meeting.site = site;
  if (meeting.site.line != site.line) fail("divergent shuffle: " + describe(mine));
  if (++meeting.waiting == 32) {
    uint64_t values[32];
    for (unsigned i = 0; i < 32; ++i) values[i] = block.fibers[first + i].value;
    for (unsigned i = 0; i < 32; ++i) {
      block.fibers[first + i].value = values[i ^ lanes];
      wake(block.fibers[first + i]);
    }
    meeting.waiting = 0;
    progress = true;
  } else {
    mine.state = State::waits;
    leave();
  }
  return mine.value;
}

void changed() {
  progress = true;
}

void wait_a_turn() {
  leave();
}

void launch(const Shape& shape, const std::function<void()>& body) {
  if (shape.cooperative && shape.blocks > shape.resident)
    throw std::runtime_error("too many blocks in cooperative launch");
  kernel = &body;
  error.clear();
  grid = Meeting{};
  grid_size = shape.blocks * shape.threads;
#if defined(FIBERS_THREAD_SANITIZER)
  main_sanitizer = __tsan_get_current_fiber();
#endif
  Order block_order(shape.schedule), thread_order(shape.schedule);
  std::vector<std::unique_ptr<Block>> alive;
  blocks_alive = &alive;
  const std::vector<unsigned> starts = Order(shape.schedule).next(shape.blocks);
  size_t started = 0;
  while (error.empty()) {
    while (alive.size() < shape.resident && started < starts.size())
      alive.push_back(make_block(shape, starts[started++]));
    if (alive.empty()) break;
    begin.release();  // after the new blocks' memory has been filled
    progress = false;
    run_round(alive, block_order, thread_order);
    end.acquire();
    if (error.empty() && !progress) {
      for (const auto& block : alive)
        for (const Fiber& fiber : block->fibers)
          if (error.empty() && fiber.state != State::finished)
            error = "deadlock: " + describe(fiber) + " waits for ever";
    }
    for (size_t i = alive.size(); error.empty() && i-- > 0;)
      if (alive[i]->finished == shape.threads) {
        release(*alive[i]);
        alive.erase(alive.begin() + static_cast<std::ptrdiff_t>(i));
      }
  }
  for (const auto& block : alive) release(*block);
  end.acquire();
  if (!error.empty()) throw std::runtime_error("fibers: " + error);
}

}  // namespace fibers
