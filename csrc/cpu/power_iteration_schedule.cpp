#include "power_iteration_schedule.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace gloro_fast::cpu {

namespace {

// A ticket says which chunk of which phase is next, in one word, so that a thread that was held up cannot take a
// chunk of a phase that is over: phase (16 bits, wrapping), chunks of that phase (24), next chunk (24).
constexpr uint64_t kMostChunks = 0xffffff;

uint64_t ticket(uint64_t phase, uint64_t chunks) {
  return phase << 48 | chunks << 24;
}

uint64_t chunks_of(uint64_t ticket) {
  return ticket >> 24 & kMostChunks;
}

uint64_t next_of(uint64_t ticket) {
  return ticket & kMostChunks;
}

// Busy for a little while, since phases last microseconds; then leaves the core to others.
class Waiting {
 public:
  void pause() {
    if (++turns_ > 4000) {
      std::this_thread::yield();
      return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  void reset() { turns_ = 0; }

 private:
  int turns_ = 0;
};

}  // namespace

struct alignas(64) Schedule::Entry {
  std::unique_ptr<Job> job;
  std::atomic<uint64_t> next{0};
  std::atomic<uint64_t> done{0};
  std::atomic<bool> finished{false};
};

Schedule::Schedule(std::vector<std::unique_ptr<Job>> jobs) {
  std::stable_sort(jobs.begin(), jobs.end(),
                   [](const auto& left, const auto& right) { return left->cost() > right->cost(); });
  entries_.reserve(jobs.size());
  for (auto& job : jobs) {
    auto entry = std::make_unique<Entry>();
    entry->next = ticket(0, static_cast<uint64_t>(job->chunks()));
    entry->job = std::move(job);
    entries_.push_back(std::move(entry));
  }
}

Schedule::~Schedule() = default;

double Schedule::cost() const {
  double sum = 0;
  for (const auto& entry : entries_) sum += entry->job->cost();
  return sum;
}

bool Schedule::run_one_chunk(Entry& entry) {
  uint64_t seen = entry.next.load(std::memory_order_acquire);
  do {
    if (next_of(seen) == chunks_of(seen)) return false;
  } while (!entry.next.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire));
  entry.job->run(static_cast<int64_t>(next_of(seen)));
  if (entry.done.fetch_add(1, std::memory_order_acq_rel) + 1 < chunks_of(seen)) return true;
  entry.done.store(0, std::memory_order_relaxed);
  if (entry.job->advance()) {
    const uint64_t phase = (seen >> 48) + 1;
    entry.next.store(ticket(phase, static_cast<uint64_t>(entry.job->chunks())), std::memory_order_release);
  } else {
    entry.finished.store(true, std::memory_order_release);
  }
  return true;
}

void Schedule::work() {
  Waiting waiting;
  for (size_t mine = begun_.fetch_add(1); mine < entries_.size(); mine = begun_.fetch_add(1)) {
    Entry& entry = *entries_[mine];
    while (!entry.finished.load(std::memory_order_acquire)) {
      if (run_one_chunk(entry)) {
        waiting.reset();
      } else {
        waiting.pause();
      }
    }
  }
  for (bool open = true; open;) {
    open = false;
    bool worked = false;
    for (const auto& entry : entries_) {
      if (entry->finished.load(std::memory_order_acquire)) continue;
      open = true;
      worked = run_one_chunk(*entry) || worked;
    }
    if (worked) {
      waiting.reset();
    } else if (open) {
      waiting.pause();
    }
  }
}

}  // namespace gloro_fast::cpu
