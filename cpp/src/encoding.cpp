#include "encoding.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "features.hpp"
#include "gallery.hpp"
#include "half.hpp"
#include "machine.hpp"
#include "states.hpp"
#include "tiling.hpp"

namespace caan::detail {
namespace {

// A call's intermediates are several times its states; for so few items returning that memory is not worth a call.
constexpr std::size_t MANY = 16;

// A region's features of this norm or more are refused: its square is beyond float32, 3.4e38, or soon will be.
constexpr double LARGEST_NORM = 1e19F;
// Below this, no weights can cause an overflow.
constexpr float HUGE_FEATURE = 1e9F;
// Tolerance for the length of a unit vector in float16.
constexpr double UNIT_ERROR = 0.01;

template <typename Value> double length_of(const Value* values, std::size_t count) {
    double squares = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const double value = values[i];
        squares += value * value;
    }
    return std::sqrt(squares);
}

/// A region whose norm overflows float32, or may, gets NaN: a runtime may give 0 or a vector that is too long.
/// features (rows, F) and their states from the encoder (rows, columns), V first.
void spoil_overflown(const float* features, std::byte* states, std::size_t rows, const Backend& backend) {
    const Sizes& sizes = backend.sizes();
    const auto columns = static_cast<std::size_t>(sizes.region_dim), D = static_cast<std::size_t>(sizes.embed_dim);
    const std::size_t row_bytes = backend.state_row_bytes(Kind::image);
    const bool is_half = backend.state_dtype() == Dtype::float16;
    std::vector<float> region(D);
    for (std::size_t row = 0; row < rows; ++row) {
        const float* values = features + row * columns;
        if (std::none_of(values, values + columns, [](float value) { return std::abs(value) >= HUGE_FEATURE; })) {
            continue;
        }
        std::byte* state = states + row * row_bytes;
        convert(state, backend.state_dtype(), region.data(), Dtype::float32, D);
        // Below the largest norm a large weight may overflow: then the vector's length is not 1.
        const bool is_sound = length_of(values, columns) < LARGEST_NORM &&
                              (!sizes.is_normalized || std::abs(length_of(region.data(), D) - 1) < UNIT_ERROR);
        if (!is_sound) {
            const float nan = std::numeric_limits<float>::quiet_NaN();
            const std::uint16_t half_nan = float_to_half(nan);
            std::memcpy(state, is_half ? static_cast<const void*>(&half_nan) : &nan, is_half ? 2 : 4);
        }
    }
}

void check_ids(const std::vector<std::string>& ids, std::size_t items) {
    if (!ids.empty() && ids.size() != items) {
        throw DataError(std::to_string(ids.size()) + " ids don't fit " + std::to_string(items) +
                        " items; give one name per item");
    }
}

/// Copy an item's padded states to their place. Throws DataError if one is not finite.
void place(Gallery::Content& gallery, std::int64_t item, const std::byte* padded, const std::vector<std::string>& ids) {
    const auto rows = static_cast<std::size_t>(gallery.length(item));
    const auto start = static_cast<std::size_t>(gallery.offsets[static_cast<std::size_t>(item)]);
    const Dtype type = gallery.type == stored_type(Dtype::float16) ? Dtype::float16 : Dtype::float32;
    if (!all_finite(padded, type, rows * gallery.columns)) {
        const std::string name = ids.empty() ? "" : " (" + ids[static_cast<std::size_t>(item)] + ")";
        throw DataError((gallery.kind == Kind::image ? "image " : "text ") + std::to_string(item) + name +
                        " can't be encoded: its features hold NaN, infinity or huge values; extract them again");
    }
    std::memcpy(gallery.memory.get() + start * gallery.row_bytes(), padded, rows * gallery.row_bytes());
}

Gallery finished(std::shared_ptr<Gallery::Content> gallery, const std::vector<std::string>& ids) {
    if (!ids.empty()) {
        gallery->ids = ids;
    }
    if (gallery->size() >= MANY) {
        release_freed_memory();
    }
    return Gallery(std::move(gallery));
}

} // namespace

std::size_t images_per_call(const Backend& backend) {
    return static_cast<std::size_t>(std::min<std::int64_t>(32, backend.most().encoded_images));
}

std::size_t captions_per_call(const Backend& backend) {
    return static_cast<std::size_t>(std::min<std::int64_t>(128, backend.most().encoded_captions));
}

Padded encode_some_images(const Backend& backend, const Features& features, std::size_t start, std::size_t end,
                          Workspace& space) {
    const std::size_t regions = features.shape[1], columns = features.shape[2];
    const std::size_t values = (end - start) * regions * columns, first = start * regions * columns;
    FeatureFile::Content::check(features);
    const float* input = nullptr;
    const auto address = reinterpret_cast<std::uintptr_t>(features.data);
    if (features.dtype == Dtype::float32 && address % alignof(float) == 0) {
        input = static_cast<const float*>(features.data) + first;
    } else {
        auto* converted = space.regions.get<float>(values);
        to_float32(features, first, values, converted);
        input = converted;
    }
    auto* states = space.states.get<std::byte>((end - start) * regions * backend.state_row_bytes(Kind::image));
    const auto n = static_cast<std::int64_t>(end - start), longest = static_cast<std::int64_t>(regions);
    backend.encode_images(input, n, longest, states);
    FeatureFile::Content::check(features);
    spoil_overflown(input, states, (end - start) * regions, backend);
    return {states, nullptr, n, longest};
}

Padded encode_some_captions(const Backend& backend, const Tokens& tokens, const std::int64_t* items, std::size_t n,
                            Workspace& space) {
    auto* lengths = space.lengths.get<std::int64_t>(n);
    std::transform(items, items + n, lengths,
                   [&](std::int64_t i) { return tokens.lengths[static_cast<std::size_t>(i)]; });
    const auto longest = static_cast<std::size_t>(*std::max_element(lengths, lengths + n));
    auto* padded = space.tokens.get<std::int64_t>(n * longest);
    std::fill(padded, padded + n * longest, 0);
    for (std::size_t i = 0; i < n; ++i) {
        const std::vector<std::int64_t>& ids = tokens.ids[static_cast<std::size_t>(items[i])];
        std::copy(ids.begin(), ids.end(), padded + i * longest);
    }
    auto* states = space.states.get<std::byte>(n * longest * backend.state_row_bytes(Kind::text));
    const auto count = static_cast<std::int64_t>(n), words = static_cast<std::int64_t>(longest);
    backend.encode_captions(padded, lengths, count, words, states);
    return {states, lengths, count, words};
}

Gallery encode_images(const Backend& backend, const Features& features, const std::vector<std::int64_t>& lengths,
                      const std::vector<std::string>& ids, Workspace& space) {
    check_ids(ids, lengths.size());
    auto gallery = new_gallery(backend, Kind::image, lengths);
    const std::size_t per_call = images_per_call(backend);
    for (std::size_t start = 0; start < lengths.size(); start += per_call) {
        const std::size_t end = std::min(start + per_call, lengths.size());
        const Padded encoded = encode_some_images(backend, features, start, end, space);
        const std::size_t item_bytes = static_cast<std::size_t>(encoded.longest) * gallery->row_bytes();
        for (std::size_t i = start; i < end; ++i) {
            const auto* states = static_cast<const std::byte*>(encoded.states) + (i - start) * item_bytes;
            place(*gallery, static_cast<std::int64_t>(i), states, ids);
        }
    }
    return finished(std::move(gallery), ids);
}

Gallery encode_captions(const Backend& backend, const Tokens& tokens, const std::vector<std::string>& ids,
                        Workspace& space) {
    check_ids(ids, tokens.lengths.size());
    auto gallery = new_gallery(backend, Kind::text, tokens.lengths);
    const std::vector<std::int64_t> order = by_length(tokens.lengths);
    const std::size_t per_call = captions_per_call(backend);
    for (std::size_t start = 0; start < order.size(); start += per_call) {
        const std::size_t n = std::min(per_call, order.size() - start);
        const Padded encoded = encode_some_captions(backend, tokens, order.data() + start, n, space);
        const std::size_t item_bytes = static_cast<std::size_t>(encoded.longest) * gallery->row_bytes();
        for (std::size_t i = 0; i < n; ++i) {
            const auto* states = static_cast<const std::byte*>(encoded.states) + i * item_bytes;
            place(*gallery, order[start + i], states, ids);
        }
    }
    return finished(std::move(gallery), ids);
}

std::shared_ptr<Gallery::Content> new_gallery(const Backend& backend, Kind kind,
                                              const std::vector<std::int64_t>& lengths) {
    auto gallery = std::make_shared<Gallery::Content>();
    gallery->kind = kind;
    gallery->encoder = backend.encoder(kind);
    gallery->type = stored_type(backend.state_dtype());
    gallery->columns = static_cast<std::size_t>(backend.sizes().state_width(kind));
    gallery->offsets.push_back(0);
    for (const std::int64_t length : lengths) {
        gallery->offsets.push_back(gallery->offsets.back() + length);
    }
    const auto rows = static_cast<std::size_t>(gallery->offsets.back());
    gallery->memory = std::unique_ptr<std::byte[]>(new std::byte[rows * gallery->row_bytes()]);
    gallery->states = gallery->memory.get();
    gallery->finish();
    return gallery;
}

} // namespace caan::detail
