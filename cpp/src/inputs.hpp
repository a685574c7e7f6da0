/// What an application hands in: captions to tokens, features checked before minutes are spent on them.
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

/// Token ids of each caption, cut to `limit`. Warns of captions that were cut, of those without a known word, and
/// of words that are not known, which it names for ten captions.
/// Throws DataError, naming the caption, for one that is empty or not UTF-8.
Tokens tokenize(const std::vector<Caption>& captions, const Vocabulary& vocabulary, std::int64_t limit,
                const Warn& warn);

/// A caption's ids, cut to `limit` with `<end>` kept. Whether anything was cut off is returned.
bool cut(std::vector<std::int64_t>& ids, std::int64_t limit);

/// Throws DataError if no word of a caption is in the vocabulary.
void check_known(const Caption& caption, const Vocabulary& vocabulary);

/// Throws DataError if features are not (N ≥ 1, 1 ≤ R ≤ limit, F).
void check_features(const Features& features, const Sizes& sizes);

/// Throws DataError if features are not those of one image, (R ≥ 1, F).
void check_image(const Features& features, const Sizes& sizes);

/// The regions of each image; all of them if none are given. Throws DataError if they don't fit the features.
std::vector<std::int64_t> image_lengths(const Features& features, const std::vector<std::int64_t>& lengths);

} // namespace caan::detail
