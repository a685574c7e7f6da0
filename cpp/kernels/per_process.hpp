#pragma once

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include <atomic>
#include <memory>

namespace caan::kernels {

inline long this_process() {
#if defined(__unix__) || defined(__APPLE__)
  return getpid();
#else
  return 0;  // nothing forks there
#endif
}

/// An object with threads, in each process its own: a forked process inherits none of them. Work::again() returns
/// another one like it (std::unique_ptr), and may be called while a thread that no longer exists holds its locks.
template <class Work>
class PerProcess {
 public:
  PerProcess() = default;
  explicit PerProcess(std::unique_ptr<Work> work) : held_(new Held{this_process(), std::move(work)}) {}
  ~PerProcess() { end(held_); }
  PerProcess(PerProcess&& other) noexcept : held_(other.held_.exchange(nullptr)) {}
  PerProcess& operator=(PerProcess&& other) noexcept {
    other.held_ = held_.exchange(other.held_);
    return *this;
  }

  /// Whichever process made it; for what does not change.
  const Work& any() const { return *held_.load()->work; }

  Work& own() {
    Held* there = held_;
    if (there->process == this_process()) return *there->work;
    auto mine = std::make_unique<Held>(Held{this_process(), there->work->again()});
    // Another thread of this process may have been first.
    return held_.compare_exchange_strong(there, mine.get()) ? *mine.release()->work : *there->work;
  }

 private:
  struct Held {
    long process;
    std::unique_ptr<Work> work;
  };

  static void end(Held* held) {
    if (held == nullptr) return;
    // A forked copy would wait forever for threads that this process lacks: it is leaked, and ends with the process.
    if (held->process == this_process()) delete held;
  }

  std::atomic<Held*> held_{nullptr};
};

}  // namespace caan::kernels
