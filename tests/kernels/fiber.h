// One device thread of the harness: a stack of its own, entered and left by the one operating-system thread that runs
// them all. A thread that leaves goes over to the one whose turn is next, which takes half the switches of going by way
// of the launch. Every switch is announced to AddressSanitizer and ThreadSanitizer.
#pragma once

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

struct alignas(64) Fiber {
  State state = State::ready;
  Position position{};
  Block* block = nullptr;
  void* stack_pointer = nullptr;
  Site site{};
  std::vector<Copy> copies;    // group after group
  std::vector<size_t> groups;  // where those that are committed and have not landed end
  size_t landed = 0;           // of the copies
  char* stack = nullptr;
#if !defined(__x86_64__)
  ucontext_t context{};
#endif
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* sanitizer = nullptr;   // ThreadSanitizer's fiber
};

extern Fiber* running;    // null between turns
extern Token begin, end;  // of a turn: what the launch did before it, and what it sees afterwards

// Gives the fiber a stack on which it will start with `first_steps`, which calls `begin_steps` before anything else and
// never returns; and takes the stack back.
void prepare(Fiber& fiber, void (*first_steps)());
void release(Fiber& fiber);

// Call before the first fiber of a launch is entered, from the thread that enters them.
void prepare_thread();

void enter(Fiber& fiber);  // goes on where the fiber left; comes back when none is next
void begin_steps();        // on a fiber's own stack, before anything else
void leave();              // over to what `next_in_turn` gives, else back to where `enter` was called
void leave_for_good();     // back to where `enter` was called
Fiber* next_in_turn();     // of the fibers that are ready, null at the end of their block's turn

std::string describe(const Fiber& fiber);

}  // namespace fibers
