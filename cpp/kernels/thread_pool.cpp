#include "thread_pool.hpp"

namespace caan::kernels {

ThreadPool::ThreadPool(std::size_t threads) {
  workers_.reserve(threads);
  try {
    for (std::size_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { wait_for_work(i); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::run(std::size_t tasks, Call call, const void* work) {
  call_ = call;
  work_ = work;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  if (tasks > 1 && !workers_.empty()) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++round_;
      busy_ = workers_.size();
    }
    started_.notify_all();
  }
  work_through(0);
  std::unique_lock<std::mutex> lock(mutex_);
  finished_.wait(lock, [this] { return busy_ == 0; });
}

void ThreadPool::work_through(std::size_t worker) {
  for (;;) {
    const std::size_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks_) return;
    call_(work_, worker, task);
  }
}

void ThreadPool::wait_for_work(std::size_t worker) {
  std::size_t seen = 0;
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      started_.wait(lock, [&] { return stopping_ || round_ != seen; });
      if (stopping_) return;
      seen = round_;
    }
    work_through(worker);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--busy_ == 0) finished_.notify_one();
  }
}

void ThreadPool::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  started_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

}  // namespace caan::kernels
