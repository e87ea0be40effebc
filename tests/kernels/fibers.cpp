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

struct Warp {
  Meeting meeting;
  uint64_t values[32];
  float operands[32][6], sums[32][4];  // of a product of matrices
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
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
Block* block_in_turn;
std::vector<unsigned> turns;  // the numbers of its threads
size_t turn;

[[noreturn]] void fail(const std::string& message) {
  error = message;
  leave_for_good();
  std::abort();
}

void first_steps() {
  begin_steps();
  (*kernel)();
  commit_copies();
  if (const Copies forgotten = landed(0); forgotten.first != forgotten.last)
    fail(describe(*running) + " has left with copies under way, for which it never waited");
  running->state = State::finished;
  ++running->block->finished;
  progress = true;
  if (running->block->all.waiting > 0) fail(describe(*running) + " has left, others of its block wait at a barrier");
  leave_for_good();
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
    block_in_turn = blocks[b].get();
    turns = thread_order.next(block_in_turn->fibers.size());
    turn = 0;
    while (Fiber* const fiber = next_in_turn()) {
      enter(*fiber);
      if (!error.empty()) return;
    }
  }
}

}  // namespace

Fiber* next_in_turn() {
  while (turn < turns.size()) {
    Fiber& fiber = block_in_turn->fibers[turns[turn++]];
    if (fiber.state == State::ready) return &fiber;
  }
  return nullptr;
}

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

// Calls `together` once all 32 lanes are there. No token: what lanes exchange orders no memory. Values come and go by
// way of the warp, each lane's in the place of its number.
template <typename Together>
void meet_lanes(Warp& warp, Site site, const char* what, const Together& together) {
  Fiber& mine = *running;
  Meeting& meeting = warp.meeting;
  mine.site = site;
  if (meeting.waiting == 0) meeting.site = site;
  if (meeting.site.line != site.line) fail(std::string("divergent ") + what + ": " + describe(mine));
  if (++meeting.waiting == 32) {
    together();
    Fiber* const lanes = &mine.block->fibers[mine.position.thread.x / 32 * 32];
    for (unsigned i = 0; i < 32; ++i) wake(lanes[i]);
    meeting.waiting = 0;
    progress = true;
  } else {
    mine.state = State::waits;
    leave();
  }
}

Warp& warp_of(const Fiber& fiber) {
  return fiber.block->warps[fiber.position.thread.x / 32];
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
  Warp& warp = warp_of(*running);
  uint64_t& mine = warp.values[running->position.thread.x % 32];
  mine = value;
  meet_lanes(warp, site, "shuffle", [&] {
    uint64_t values[32];
    std::memcpy(values, warp.values, sizeof values);
    for (unsigned i = 0; i < 32; ++i) warp.values[i] = values[i ^ lanes];
  });
  return mine;
}

void multiply_tf32(float (&sums)[4], const float (&operands)[6], Site site) {
  Warp& warp = warp_of(*running);
  const unsigned mine = running->position.thread.x % 32;
  std::memcpy(warp.operands[mine], operands, sizeof operands);
  std::memcpy(warp.sums[mine], sums, sizeof sums);
  meet_lanes(warp, site, "product of matrices", [&] {
    double a[16][8], b[8][8], c[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const float* const of_lane = warp.operands[lane];
      a[g][t] = truncated(of_lane[0]), a[g + 8][t] = truncated(of_lane[1]);
      a[g][t + 4] = truncated(of_lane[2]), a[g + 8][t + 4] = truncated(of_lane[3]);
      b[t][g] = truncated(of_lane[4]), b[t + 4][g] = truncated(of_lane[5]);
      for (int i = 0; i < 4; ++i) c[g + i / 2 * 8][2 * t + i % 2] = static_cast<double>(warp.sums[lane][i]);
    }
    for (int row = 0; row < 16; ++row)
      for (int column = 0; column < 8; column += 2) {
        double even = c[row][column], odd = c[row][column + 1];
        for (int k = 0; k < 8; ++k) even += a[row][k] * b[k][column], odd += a[row][k] * b[k][column + 1];
        c[row][column] = even, c[row][column + 1] = odd;
      }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i)
        warp.sums[lane][i] = static_cast<float>(c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
  });
  std::memcpy(sums, warp.sums[mine], sizeof sums);
}

void start_copy(const Copy& copy) {
  const auto misaligned = [&](const float* address) {
    return reinterpret_cast<uintptr_t>(address) % (copy.words * sizeof(float)) != 0;
  };
  if (misaligned(copy.to) || misaligned(copy.from)) fail(describe(*running) + ": a misaligned copy after this place");
  Fiber& fiber = *running;
  if (fiber.groups.empty() && fiber.landed == fiber.copies.size()) {
    fiber.copies.clear();
    fiber.landed = 0;
  }
  fiber.copies.push_back(copy);
}

void commit_copies() {
  running->groups.push_back(running->copies.size());
}

Copies landed(unsigned left) {
  Fiber& fiber = *running;
  const size_t before = fiber.landed, groups = fiber.groups.size() - std::min<size_t>(left, fiber.groups.size());
  if (groups > 0) fiber.landed = fiber.groups[groups - 1];
  fiber.groups.erase(fiber.groups.begin(), fiber.groups.begin() + static_cast<std::ptrdiff_t>(groups));
  return {fiber.copies.data() + before, fiber.copies.data() + fiber.landed};
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
