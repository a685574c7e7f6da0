/// Verifies a gallery's states against their recorded hashes, a block at a time.
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

/// What a file holds, for messages.
struct Subject {
    const char* name;  // "states"
    std::string again; // what to do if they were changed
};

/// Verifies blocks of mapped states, each on first use, and again after the file was modified in place. Threads may
/// share one.
class BlockCheck {
public:
    /// states (rows, row_bytes), from the beginning of the file, which must outlive this.
    BlockCheck(std::string path, std::vector<Block> blocks, const MappedFile& states, std::size_t row_bytes,
               Subject subject = states_of_gallery());

    static Subject states_of_gallery() { return {"states", "run caan index again with --overwrite"}; }

    /// Call before using rows: throws BundleError if rows [start, end) are not as written.
    void operator()(std::int64_t start, std::int64_t end);

    /// Call after using rows: throws BundleError if any verified row has changed since.
    void confirm();

private:
    /// Checks the file, and drops earlier results if it was changed. Throws BundleError if it was truncated.
    void notice();
    void compare(std::size_t number);

    std::string path_;
    Subject subject_;
    std::vector<Block> blocks_;
    std::vector<std::int64_t> ends_; // rows up to the end of each block
    const MappedFile& states_;
    std::size_t row_bytes_;
    std::unique_ptr<std::atomic<bool>[]> good_; // (blocks)
    std::atomic<std::size_t> unknown_;          // blocks not verified yet
    std::mutex comparing_;
    std::mutex noticing_; // guards the members below, and writes to the two above
    FileStatus seen_;
    std::size_t changes_ = 0;
    std::set<std::size_t> doubtful_; // blocks verified and used before the file was changed
};

/// Throws BundleError unless a block's states are as written.
void compare_block(const std::string& path, const std::vector<Block>& blocks, std::size_t number,
                   const std::byte* states, std::size_t row_bytes,
                   const Subject& subject = BlockCheck::states_of_gallery());

} // namespace caan::detail
