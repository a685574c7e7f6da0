/// A gallery's folder, formats 2 to 4, as described in docs/architecture.md.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <caan/caan.hpp>
#include <kernel.hpp>

#include "block_check.hpp"
#include "gallery_sketches.hpp"

namespace caan::detail {

/// Size of a file's valid part, and its SHA-256.
struct Part {
    std::size_t size;
    std::string sha256;
};

/// Content of gallery.json.
struct Description {
    Kind kind;
    std::string encoder;
    kernels::StateType type;
    std::size_t columns;
    bool compact;
    std::string bundle;
    std::vector<Block> blocks;
    Part lengths;
    std::vector<Part> ids;                                      // one or none
    std::vector<std::pair<std::int64_t, std::int64_t>> deleted; // [first, last + 1) of each run
    std::optional<SketchEntry> sketch;
    std::vector<Block> sketch_blocks; // with the hashes of sketches; rows: items
    std::int64_t items = 0, rows = 0;
};

/// Open a gallery; mapped states are not verified yet. Another process may replace it or append to it meanwhile.
/// Throws BundleError, naming the file, for one that is missing, damaged or newer.
std::shared_ptr<const Gallery::Content> read_gallery(const std::string& folder, Storage storage);

/// The validated content of a gallery.json read from `path`. Throws BundleError.
Description parse_description(const std::string& text, const std::string& path);

/// lengths.bin → offsets (items + 1). Throws BundleError if it does not fit the description.
std::vector<std::int64_t> parse_lengths(const std::string& content, const Description& description,
                                        const std::string& path);

/// ids.jsonl → one name per item. Throws BundleError if there are more or fewer.
std::vector<std::string> parse_ids(const std::string& content, const Description& description, const std::string& path);

} // namespace caan::detail
