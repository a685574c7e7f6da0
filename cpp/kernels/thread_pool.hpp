#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

namespace caan::kernels {

/// A pool of threads, including the caller. Only one caller may be in `run` at a time.
class ThreadPool {
 public:
  /// Throws std::system_error if a thread can't be started.
  explicit ThreadPool(std::size_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::size_t size() const { return workers_.size() + 1; }

  /// Calls work(worker, task) once for each task from 0 to tasks - 1, handing out tasks one by one as threads become
  /// free; `worker` is from 0 to size() - 1, one per thread. Returns when all are done. `work` must not throw.
  template <class Work>
  void run(std::size_t tasks, const Work& work) {
    run(tasks, &call_work<Work>, &work);
  }

 private:
  using Call = void (*)(const void* work, std::size_t worker, std::size_t task);

  template <class Work>
  static void call_work(const void* work, std::size_t worker, std::size_t task) {
    (*static_cast<const Work*>(work))(worker, task);
  }

  void run(std::size_t tasks, Call call, const void* work);
  void work_through(std::size_t worker);
  void wait_for_work(std::size_t worker);
  void stop();

  std::mutex mutex_;
  std::condition_variable started_, finished_;
  std::size_t round_ = 0, busy_ = 0;
  bool stopping_ = false;
  Call call_ = nullptr;
  const void* work_ = nullptr;
  std::size_t tasks_ = 0;
  // On its own cache line: every thread writes it for every task.
  alignas(64) std::atomic<std::size_t> next_{0};
  alignas(64) std::vector<std::thread> workers_;
};

}  // namespace caan::kernels
