// Launches of the harness: blocks, the barriers where their threads meet, and the order in which all take their turns.
// Compiled without ThreadSanitizer, as fiber.cpp is.
#include "fibers.h"

#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

namespace fibers {

// A point where threads wait until all are there. Two tokens in turn, so that a fast thread's next arrival does not
// order a slow one's departure.
struct Meeting {
  unsigned waiting = 0;
  unsigned round = 0;
  Site site{};
  Token token[2];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Meeting> warps;
  Meeting all;
  unsigned finished = 0;
  std::unique_ptr<char[], void (*)(void*)> memory{nullptr, std::free};
};

namespace {

const std::function<void()>* kernel;
bool progress;  // something happened that others may wait for
std::string error;
Meeting grid;
unsigned grid_size;
std::vector<std::unique_ptr<Block>>* blocks_alive;

[[noreturn]] void fail(const std::string& message) {
  error = message;
  leave(true);
  std::abort();
}

void first_steps() {
  begin_steps();
  (*kernel)();
  Copy forgotten;
  commit_copies();
  if (next_landed(0, forgotten))
    fail(describe(*running) + " has left with copies under way, for which it never waited");
  running->state = State::finished;
  ++running->block->finished;
  progress = true;
  if (running->block->all.waiting > 0) fail(describe(*running) + " has left, others of its block wait at a barrier");
  leave(true);
  std::abort();
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
    prepare(fiber, &first_steps);
  }
  return block;
}

void release(Block& block) {
  for (Fiber& fiber : block.fibers) release(fiber);
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

namespace {

// Calls `together` with the number of the warp's first lane once all 32 are there. No token: what lanes exchange orders
// no memory. Values come and go by way of the fibers.
template <typename Together>
void meet_lanes(Site site, const char* what, const Together& together) {
  Fiber& mine = *running;
  Block& block = *mine.block;
  const unsigned first = mine.position.thread.x / 32 * 32;
  Meeting& meeting = block.warps[first / 32];
  mine.site = site;
  if (meeting.waiting == 0) meeting.site = site;
  if (meeting.site.line != site.line) fail(std::string("divergent ") + what + ": " + describe(mine));
  if (++meeting.waiting == 32) {
    together(first);
    for (unsigned i = 0; i < 32; ++i) wake(block.fibers[first + i]);
    meeting.waiting = 0;
    progress = true;
  } else {
    mine.state = State::waits;
    leave();
  }
}

// The ten bits after the point that the hardware takes.
double truncated(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits &= 0xffffe000u;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

uint64_t exchange(uint64_t value, unsigned lanes, Site site) {
  running->value = value;
  meet_lanes(site, "shuffle", [&](unsigned first) {
    std::vector<Fiber>& fibers = running->block->fibers;
    uint64_t values[32];
    for (unsigned i = 0; i < 32; ++i) values[i] = fibers[first + i].value;
    for (unsigned i = 0; i < 32; ++i) fibers[first + i].value = values[i ^ lanes];
  });
  return running->value;
}

void multiply_tf32(float (&sums)[4], const float (&operands)[6], Site site) {
  std::copy(operands, operands + 6, running->operands);
  std::copy(sums, sums + 4, running->sums);
  meet_lanes(site, "product of matrices", [&](unsigned first) {
    Fiber* const lanes = &running->block->fibers[first];
    double a[16][8], b[8][8];
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const float* const of_lane = lanes[lane].operands;
      a[g][t] = truncated(of_lane[0]), a[g + 8][t] = truncated(of_lane[1]);
      a[g][t + 4] = truncated(of_lane[2]), a[g + 8][t + 4] = truncated(of_lane[3]);
      b[t][g] = truncated(of_lane[4]), b[t + 4][g] = truncated(of_lane[5]);
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = static_cast<double>(lanes[lane].sums[i]);
        for (int k = 0; k < 8; ++k) sum += a[row][k] * b[k][column];
        lanes[lane].sums[i] = static_cast<float>(sum);
      }
  });
  std::copy(running->sums, running->sums + 4, sums);
}

void start_copy(const Copy& copy) {
  const auto misaligned = [&](const float* address) {
    return reinterpret_cast<uintptr_t>(address) % (copy.words * sizeof(float)) != 0;
  };
  if (misaligned(copy.to) || misaligned(copy.from)) fail(describe(*running) + ": a misaligned copy after this place");
  running->open.push_back(copy);
}

void commit_copies() {
  running->copies.emplace_back(std::move(running->open));
  running->open.clear();
}

bool next_landed(unsigned left, Copy& copy) {
  std::deque<std::vector<Copy>>& groups = running->copies;
  while (groups.size() > left) {
    if (!groups.front().empty()) {
      copy = groups.front().back();
      groups.front().pop_back();
      return true;
    }
    groups.pop_front();
  }
  return false;
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
  prepare_thread();
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
