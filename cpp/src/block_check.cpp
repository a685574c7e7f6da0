#include "block_check.hpp"

#include <algorithm>
#include <numeric>

#include <caan/caan.hpp>

namespace caan::detail {
BlockCheck::BlockCheck(std::string path, std::vector<Block> blocks, const MappedFile& states, std::size_t row_bytes,
                       Subject subject)
    : path_(std::move(path)), subject_(std::move(subject)), blocks_(std::move(blocks)), states_(states),
      row_bytes_(row_bytes), good_(std::make_unique<std::atomic<bool>[]>(blocks_.size())), unknown_(blocks_.size()),
      seen_(states.status()) {
    std::int64_t end = 0;
    for (const Block& block : blocks_) {
        ends_.push_back(end += block.rows);
    }
}

void BlockCheck::operator()(std::int64_t start, std::int64_t end) {
    notice();
    if (unknown_.load(std::memory_order_acquire) == 0) {
        return;
    }
    auto number = static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), start) - ends_.begin());
    for (; number < blocks_.size() && ends_[number] - blocks_[number].rows < end; ++number) {
        if (!good_[number].load(std::memory_order_acquire)) {
            compare(number);
        }
    }
}

void BlockCheck::confirm() {
    notice();
    for (;;) {
        std::size_t number = 0;
        {
            const std::lock_guard<std::mutex> lock(noticing_);
            if (doubtful_.empty()) {
                return;
            }
            number = *doubtful_.begin();
        }
        compare(number);
    }
}

void BlockCheck::notice() {
    const std::lock_guard<std::mutex> one_at_a_time(noticing_);
    const FileStatus now = states_.status();
    const std::size_t needed = static_cast<std::size_t>(ends_.back()) * row_bytes_;
    if (now.size < needed) {
        throw BundleError(path_ + " is truncated: " + std::to_string(now.size) + " bytes of " + std::to_string(needed) +
                          "; " + subject_.again);
    }
    if (now.is_written_since(seen_)) {
        ++changes_;
        for (std::size_t number = 0; number < blocks_.size(); ++number) {
            if (good_[number].exchange(false)) {
                doubtful_.insert(number);
            }
        }
        unknown_ = blocks_.size();
    }
    seen_ = now;
}

void BlockCheck::compare(std::size_t number) {
    const std::lock_guard<std::mutex> one_at_a_time(comparing_);
    while (!good_[number].load(std::memory_order_acquire)) {
        const std::size_t before = [&] {
            const std::lock_guard<std::mutex> lock(noticing_);
            return changes_;
        }();
        compare_block(path_, blocks_, number, states_.data(), row_bytes_, subject_);
        const std::lock_guard<std::mutex> lock(noticing_);
        if (changes_ == before) {
            good_[number].store(true, std::memory_order_release);
            unknown_.fetch_sub(1, std::memory_order_acq_rel);
            doubtful_.erase(number);
        }
    }
}

void compare_block(const std::string& path, const std::vector<Block>& blocks, std::size_t number,
                   const std::byte* states, std::size_t row_bytes, const Subject& subject) {
    const auto before = blocks.begin() + static_cast<std::ptrdiff_t>(number);
    const auto row = std::accumulate(blocks.begin(), before, std::int64_t{0},
                                     [](std::int64_t sum, const Block& block) { return sum + block.rows; });
    const std::byte* start = states + static_cast<std::size_t>(row) * row_bytes;
    if (sha256_of(start, static_cast<std::size_t>(before->rows) * row_bytes) != before->sha256) {
        const auto item = std::accumulate(blocks.begin(), before, std::int64_t{0},
                                          [](std::int64_t sum, const Block& block) { return sum + block.items; });
        throw BundleError(path + " was changed: the " + subject.name + " of items " + std::to_string(item) + " to " +
                          std::to_string(item + before->items - 1) + " are not those that were written; " +
                          subject.again);
    }
}

} // namespace caan::detail
