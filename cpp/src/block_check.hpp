/// Comparing a gallery's states with the hashes that they were written with, a block at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "files.hpp"

namespace caan::detail {

/// Consecutive items that were encoded and written together.
struct Block {
    std::int64_t items, rows;
    std::string sha256; // of their states
};

/// Compares blocks of mapped states with their hashes, each when it is first used, and again once the file was changed
/// where it lies. Threads may share one.
class BlockCheck {
public:
    /// states (rows, row_bytes), from the beginning of the file, which must outlive this.
    BlockCheck(std::string path, std::vector<Block> blocks, const MappedFile& states, std::size_t row_bytes);

    /// To be called before rows are used: throws BundleError if rows start to end, the latter excluded, are not those
    /// that were written.
    void operator()(std::int64_t start, std::int64_t end);

    /// To be called after rows were used: throws BundleError if any that was compared is another now.
    void confirm();

private:
    /// Looks at the file, and forgets what was compared if it was changed. Throws BundleError if it was shortened.
    void notice();
    void compare(std::size_t number);

    std::string path_;
    std::vector<Block> blocks_;
    std::vector<std::int64_t> ends_; // rows up to the end of each block
    const MappedFile& states_;
    std::size_t row_bytes_;
    std::unique_ptr<std::atomic<bool>[]> good_; // (blocks)
    std::atomic<std::size_t> unknown_;          // blocks that were not compared yet
    std::mutex comparing_;
    std::mutex noticing_; // of what follows, and of setting the two above
    FileStatus seen_;
    std::size_t changes_ = 0;
    std::set<std::size_t> doubtful_; // blocks that were good, and used, before the file was changed
};

/// Throws BundleError unless a block's states are those that were written.
void compare_block(const std::string& path, const std::vector<Block>& blocks, std::size_t number,
                   const std::byte* states, std::size_t row_bytes);

} // namespace caan::detail
