/// A Gallery's content: states of all items, concatenated without padding, and the items' offsets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <caan/caan.hpp>
#include <kernel.hpp>

#include "block_check.hpp"
#include "files.hpp"
#include "gallery_sketches.hpp"

namespace caan {

struct Gallery::Content {
    Kind kind = Kind::image;
    std::string encoder;
    kernels::StateType type = kernels::StateType::kFloat32;
    std::size_t columns = 0; // of a row
    bool compact = false;    // states are V alone; the scorer's other columns are recomputed
    std::string bundle;
    std::string folder;                // empty if it was made in memory
    const std::byte* states = nullptr; // (rows, row_bytes); item i is rows offsets[i] to offsets[i + 1]
    std::vector<std::int64_t> offsets; // (items + 1)
    std::optional<std::vector<std::string>> ids;
    std::vector<bool> deleted;      // (items), or empty
    std::vector<std::int64_t> live; // indices of the items that are not deleted, increasing
    std::int64_t longest = 0;       // rows of the longest item

    std::shared_ptr<detail::Sketches> sketches; // or null

    // Owner of the states: one of these.
    std::unique_ptr<std::byte[]> memory;
    detail::MappedFile file;
    std::unique_ptr<detail::BlockCheck> check; // of the file

    std::size_t size() const noexcept { return offsets.size() - 1; }
    std::int64_t length(std::int64_t item) const noexcept {
        const auto i = static_cast<std::size_t>(item);
        return offsets[i + 1] - offsets[i];
    }
    /// Of a state, each with a scale of its own in int8.
    std::size_t matrices() const noexcept {
        return compact ? 1 : kind == Kind::image ? kernels::kImageMatrices : kernels::kCaptionMatrices;
    }
    std::size_t row_bytes() const noexcept { return kernels::row_bytes(type, columns, matrices()); }
    const std::byte* row(std::int64_t number) const noexcept {
        return states + static_cast<std::size_t>(number) * row_bytes();
    }
    /// Call after using states: throws BundleError if their file was changed meanwhile.
    void confirm() const;
    /// Start reading these items' states from the disk.
    void fetch(const std::vector<std::int64_t>& items) const noexcept;
    /// Fill `live` and `longest` from the rest.
    void finish();
};

} // namespace caan
