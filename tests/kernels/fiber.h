// One device thread of the harness: a stack of its own, entered and left by the one operating-system thread that runs
// them all. Every switch is announced to AddressSanitizer and ThreadSanitizer.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "fibers.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fibers {

// What is told to ThreadSanitizer: everything before a release is seen after the acquires of the same token.
struct Token {
  void release();
  void acquire();
  char unused = 0;
};

enum class State { ready, waits, finished };

struct Block;

struct Fiber {
  Position position{};
  Block* block = nullptr;
  State state = State::ready;
  Site site{};
  uint64_t value = 0;
  float operands[6] = {}, sums[4] = {};  // of a product of matrices
  std::deque<std::vector<Copy>> copies;  // under way, by group
  std::vector<Copy> open;                // the group that is not committed yet
  void* stack_pointer = nullptr;
  char* stack = nullptr;
#if !defined(__x86_64__)
  ucontext_t context{};
#endif
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* sanitizer = nullptr;   // ThreadSanitizer's fiber
};

extern Fiber* running;    // null between fibers
extern Token begin, end;  // of a turn: what the launch did before it, and what it sees afterwards

// Gives the fiber a stack on which it will start with `first_steps`, which calls `begin_steps` before anything else and
// never returns; and takes the stack back.
void prepare(Fiber& fiber, void (*first_steps)());
void release(Fiber& fiber);

// Call before the first fiber of a launch is entered, from the thread that enters them.
void prepare_thread();

void enter(Fiber& fiber);           // goes on where the fiber left
void begin_steps();                 // on a fiber's own stack, before anything else
void leave(bool for_good = false);  // back to where the running fiber was entered

std::string describe(const Fiber& fiber);

}  // namespace fibers
