/// Reusable memory for tiles and calls.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace caan::detail {

/// Uninitialised memory that only grows.
class Buffer {
public:
    /// How often a buffer had to grow, over all buffers that share this count.
    using Growths = std::atomic<std::size_t>;

    explicit Buffer(Growths& growths) : growths_(growths) {}

    /// At least this many elements; growing loses the previous content.
    template <typename T> T* get(std::size_t elements) {
        const std::size_t bytes = elements * sizeof(T);
        if (bytes > size_) {
            memory_.reset(); // not both at once
            memory_ = std::unique_ptr<std::byte[]>(new std::byte[bytes]);
            size_ = bytes;
            growths_.fetch_add(1, std::memory_order_relaxed);
        }
        return reinterpret_cast<T*>(memory_.get());
    }

private:
    std::unique_ptr<std::byte[]> memory_;
    std::size_t size_ = 0;
    Growths& growths_;
};

/// One thread's buffers for preparing and scoring tiles, or for encoding.
struct Workspace {
    explicit Workspace(Buffer::Growths& growths)
        : states(growths), regions(growths), wide(growths), items(growths), lengths(growths), tokens(growths),
          scores(growths) {}

    Buffer states;  // padded states in the scorer's type
    Buffer regions; // V alone of compact galleries, features for the image encoder
    Buffer wide;    // the expander's output, before it is narrowed
    Buffer items;   // addresses of the items' states
    Buffer lengths; // of each item
    Buffer tokens;
    Buffer scores;
};

/// Hands out workspaces; each is used by one thread at a time.
class Workspaces {
public:
    using Loan = std::unique_ptr<Workspace, std::function<void(Workspace*)>>;

    Loan borrow() {
        const std::lock_guard<std::mutex> lock(mutex_);
        Workspace* lent = nullptr;
        if (free_.empty()) {
            lent = new Workspace(growths_);
        } else {
            lent = free_.back().release();
            free_.pop_back();
        }
        return {lent, [this](Workspace* returned) {
                    const std::lock_guard<std::mutex> returning(mutex_);
                    free_.emplace_back(returned);
                }};
    }

    std::size_t growths() const noexcept { return growths_.load(std::memory_order_relaxed); }

private:
    Buffer::Growths growths_{0};
    std::mutex mutex_;
    std::vector<std::unique_ptr<Workspace>> free_;
};

} // namespace caan::detail
