/// Comparing a gallery's states with the hashes that they were written with, a block at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace caan::detail {

/// Consecutive items that were encoded and written together.
struct Block {
    std::int64_t items, rows;
    std::string sha256; // of their states
};

/// Compares blocks of states with their hashes, each once, when they are first used. Threads may share one.
class BlockCheck {
public:
    /// states (rows, row_bytes), which must outlive this.
    BlockCheck(std::string path, std::vector<Block> blocks, const std::byte* states, std::size_t row_bytes);

    /// Throws BundleError if rows start to end, the latter excluded, are not those that were written.
    void operator()(std::int64_t start, std::int64_t end);

private:
    void compare(std::size_t number);

    std::string path_;
    std::vector<Block> blocks_;
    std::vector<std::int64_t> ends_; // rows up to the end of each block
    const std::byte* states_;
    std::size_t row_bytes_;
    std::unique_ptr<std::atomic<bool>[]> good_; // (blocks)
    std::atomic<std::size_t> unknown_;          // blocks that were not compared yet
    std::mutex comparing_;
};

} // namespace caan::detail
