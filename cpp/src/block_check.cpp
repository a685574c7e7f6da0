#include "block_check.hpp"

#include <algorithm>

#include <caan/caan.hpp>

#include "files.hpp"

namespace caan::detail {

BlockCheck::BlockCheck(std::string path, std::vector<Block> blocks, const std::byte* states, std::size_t row_bytes)
    : path_(std::move(path)), blocks_(std::move(blocks)), states_(states), row_bytes_(row_bytes),
      good_(std::make_unique<std::atomic<bool>[]>(blocks_.size())), unknown_(blocks_.size()) {
    std::int64_t end = 0;
    for (const Block& block : blocks_) {
        ends_.push_back(end += block.rows);
    }
}

void BlockCheck::operator()(std::int64_t start, std::int64_t end) {
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

void BlockCheck::compare(std::size_t number) {
    const std::lock_guard<std::mutex> one_at_a_time(comparing_);
    if (good_[number].load(std::memory_order_acquire)) {
        return;
    }
    const Block& block = blocks_[number];
    const auto first = static_cast<std::size_t>(ends_[number] - block.rows);
    if (sha256_of(states_ + first * row_bytes_, static_cast<std::size_t>(block.rows) * row_bytes_) != block.sha256) {
        std::int64_t item = 0;
        for (std::size_t i = 0; i < number; ++i) {
            item += blocks_[i].items;
        }
        throw BundleError(path_ + " was changed: the states of items " + std::to_string(item) + " to " +
                          std::to_string(item + block.items - 1) +
                          " are not those that were written; run caan index again with --overwrite");
    }
    good_[number].store(true, std::memory_order_release);
    unknown_.fetch_sub(1, std::memory_order_acq_rel);
}

} // namespace caan::detail
