// Many jobs, each a row of phases that split into independent chunks, worked on by any number of threads.
//
// A thread takes the costliest job that nobody has begun and stays with it; once every job is taken it helps
// with the chunks of the others. The thread that finishes the last chunk of a phase opens the next one, so that
// no thread waits for another to arrive: it works with fewer threads than asked for, down to one. What a chunk
// computes depends on neither the thread nor the order, and so nor do the results.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace gloro_fast::cpu {

class Job {
 public:
  virtual ~Job() = default;
  // A measure of the whole job's time, to compare jobs by.
  virtual double cost() const = 0;
  // Chunks of the present phase, at least 1.
  virtual int64_t chunks() const = 0;
  // Works on one chunk; called at once from several threads for different chunks.
  virtual void run(int64_t chunk) = 0;
  // Called by one thread when every chunk of the phase is done; false ends the job.
  virtual bool advance() = 0;
};

class Schedule {
 public:
  explicit Schedule(std::vector<std::unique_ptr<Job>> jobs);
  ~Schedule();

  double cost() const;
  // Returns when all jobs are finished; to be called from as many threads as shall work.
  void work();

 private:
  struct Entry;

  bool run_one_chunk(Entry& entry);

  std::vector<std::unique_ptr<Entry>> entries_;  // costliest first
  std::atomic<size_t> begun_{0};
};

}  // namespace gloro_fast::cpu
