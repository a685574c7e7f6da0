/// A gallery's sketches.bin, and the recall measured with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block_check.hpp"
#include "files.hpp"

namespace caan::detail {

/// Recall of the exact best k among the first n candidates, measured on this gallery.
struct Curve {
    std::int64_t items, sample;                         // live items then, and those that were scored exactly
    std::vector<std::int64_t> k, candidates;            // increasing
    std::vector<std::vector<double>> recall, low, high; // (k, candidates); low and high: an interval of 95 %
};

/// What gallery.json says of sketches.
struct SketchEntry {
    std::string model; // which bundle's sketch it is
    std::size_t columns;
    std::optional<Curve> curve;
};

/// Sketches (items, columns) of a gallery in a folder. May be used from several threads.
class Sketches {
public:
    /// blocks: each with the hash of its sketches. deleted (items), or empty. `in_memory`: read and verified now;
    /// otherwise mapped, and verified on first use. Throws BundleError, naming the file.
    Sketches(std::string folder, SketchEntry entry, std::vector<Block> blocks, const std::vector<bool>& deleted,
             bool in_memory);

    /// Throws BundleError if they are not as written.
    const std::int8_t* rows() const;
    /// Call after using rows, as BlockCheck.
    void confirm() const;

    const std::string& folder() const noexcept { return folder_; }
    const SketchEntry& entry() const noexcept { return entry_; }
    std::size_t items() const noexcept { return items_; }
    /// (items), not 0 where an item is deleted; or null.
    const std::uint8_t* deleted() const noexcept { return deleted_.empty() ? nullptr : deleted_.data(); }

private:
    std::string folder_;
    SketchEntry entry_;
    std::size_t items_ = 0;
    std::vector<std::uint8_t> deleted_;
    const std::byte* data_ = nullptr;
    std::vector<std::byte> memory_;
    MappedFile file_;
    std::unique_ptr<BlockCheck> check_; // of the file
};

} // namespace caan::detail
