/// The application's inputs: captions to tokens; features are checked before minutes are spent on them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <caan/caan.hpp>

#include "bundle.hpp"
#include "vocabulary.hpp"

namespace caan::detail {

using Warn = std::function<void(const std::string&)>;

/// Token ids of captions, and their number.
struct Tokens {
    std::vector<std::vector<std::int64_t>> ids;
    std::vector<std::int64_t> lengths;
};

/// Token ids of each caption, truncated to `limit`. Warns about truncated captions, captions without a known word, and
/// unknown words, which it names for up to ten captions.
/// Throws DataError, naming the caption, for one that is empty or not UTF-8.
Tokens tokenize(const std::vector<Caption>& captions, const Vocabulary& vocabulary, std::int64_t limit,
                const Warn& warn);

/// Truncate a caption's ids to `limit`, keeping `<end>`. Returns whether anything was cut off.
bool cut(std::vector<std::int64_t>& ids, std::int64_t limit);

/// Throws DataError if none of a caption's words is in the vocabulary.
void check_known(const Caption& caption, const Vocabulary& vocabulary);

/// Throws DataError if features are not (N ≥ 1, 1 ≤ R ≤ limit, F).
void check_features(const Features& features, const Sizes& sizes);

/// Throws DataError if features are not those of one image, (R ≥ 1, F).
void check_image(const Features& features, const Sizes& sizes);

/// The regions of each image; all of them if none are given. Throws DataError if they don't fit the features.
std::vector<std::int64_t> image_lengths(const Features& features, const std::vector<std::int64_t>& lengths);

} // namespace caan::detail
