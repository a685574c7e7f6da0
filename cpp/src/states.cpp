#include "states.hpp"

#include <algorithm>
#include <cstring>

#include "half.hpp"

namespace caan::detail {
namespace {

std::size_t width_of(Dtype type) { return type == Dtype::float16 ? 2 : 4; }

struct Extent {
    std::int64_t first, last; // rows that the items lie within
    std::int64_t longest;
    bool is_run; // adjacent and equally long: nothing has to be copied
};

Extent extent_of(const Gallery::Content& gallery, const std::int64_t* items, std::size_t n) {
    Extent extent{gallery.offsets[static_cast<std::size_t>(items[0])], 0, 0, true};
    for (std::size_t i = 0; i < n; ++i) {
        const auto item = static_cast<std::size_t>(items[i]);
        const std::int64_t start = gallery.offsets[item], end = gallery.offsets[item + 1];
        extent.is_run &=
            gallery.length(items[i]) == gallery.length(items[0]) && (i == 0 || items[i] == items[i - 1] + 1);
        extent.first = std::min(extent.first, start);
        extent.last = std::max(extent.last, end);
        extent.longest = std::max(extent.longest, end - start);
    }
    return extent;
}

std::uint32_t bits_at(const std::byte* at, std::size_t bytes) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, at, bytes);
    return bits;
}

float float_of(std::uint32_t bits) {
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

void put(float value, float& to) { to = value; }
void put(float value, std::uint16_t& to) { to = float_to_half(value); }

/// A stored row of bfloat16 or int8 → its numbers.
template <typename T>
void decode_row(const std::byte* row, const Gallery::Content& gallery, const Sizes& sizes, T* to) {
    if (gallery.type == kernels::StateType::kBFloat16) {
        for (std::size_t j = 0; j < gallery.columns; ++j) {
            put(float_of(bits_at(row + 2 * j, 2) << 16), to[j]);
        }
        return;
    }
    const auto dim = static_cast<std::size_t>(sizes.embed_dim), wide = static_cast<std::size_t>(sizes.attention_dim);
    const std::size_t of_embed_dim = gallery.kind == Kind::image && !gallery.compact ? 2 : 1;
    const auto* integers = reinterpret_cast<const std::int8_t*>(row + gallery.matrices() * sizeof(float));
    for (std::size_t number = 0; number < gallery.matrices(); ++number) {
        const float scale = float_of(bits_at(row + number * sizeof(float), sizeof(float)));
        const std::size_t columns = number < of_embed_dim ? dim : wide;
        for (std::size_t j = 0; j < columns; ++j) {
            put(scale * static_cast<float>(integers[j]), to[j]);
        }
        integers += columns;
        to += columns;
    }
}

bool is_small(kernels::StateType type) {
    return type == kernels::StateType::kBFloat16 || type == kernels::StateType::kInt8;
}

/// Rows of the gallery in `type`.
void widen(const std::byte* from, const Gallery::Content& gallery, const Sizes& sizes, std::size_t rows, Dtype type,
           std::byte* out) {
    if (!is_small(gallery.type)) {
        const Dtype stored = gallery.type == kernels::StateType::kFloat16 ? Dtype::float16 : Dtype::float32;
        convert(from, stored, out, type, rows * gallery.columns);
        return;
    }
    for (std::size_t i = 0; i < rows; ++i, from += gallery.row_bytes(), out += gallery.columns * width_of(type)) {
        if (type == Dtype::float32) {
            decode_row(from, gallery, sizes, reinterpret_cast<float*>(out));
        } else {
            decode_row(from, gallery, sizes, reinterpret_cast<std::uint16_t*>(out));
        }
    }
}

/// Copy items' rows to (n, longest, columns) of `type`, zeros behind the shorter ones.
void pad(const Gallery::Content& gallery, const Sizes& sizes, const std::int64_t* items, std::size_t n,
         std::int64_t longest, std::byte* out, Dtype type) {
    const std::size_t row = gallery.columns * width_of(type);
    for (std::size_t i = 0; i < n; ++i) {
        const auto length = static_cast<std::size_t>(gallery.length(items[i]));
        const std::byte* from = gallery.row(gallery.offsets[static_cast<std::size_t>(items[i])]);
        widen(from, gallery, sizes, length, type, out);
        std::memset(out + length * row, 0, (static_cast<std::size_t>(longest) - length) * row);
        out += static_cast<std::size_t>(longest) * row;
    }
}

} // namespace

Padded gather_states(const Backend& backend, const Gallery::Content& gallery, const std::int64_t* items, std::size_t n,
                     Workspace& space) {
    const Extent extent = extent_of(gallery, items, n);
    if (gallery.check != nullptr) {
        (*gallery.check)(extent.first, extent.last);
    }
    auto* lengths = space.lengths.get<std::int64_t>(n);
    std::transform(items, items + n, lengths, [&](std::int64_t item) { return gallery.length(item); });
    const auto rows = n * static_cast<std::size_t>(extent.longest);
    const auto count = static_cast<std::int64_t>(n);
    const Dtype type = backend.state_dtype();
    if (gallery.compact) {
        auto* regions = space.regions.get<float>(rows * gallery.columns);
        pad(gallery, backend.sizes(), items, n, extent.longest, reinterpret_cast<std::byte*>(regions), Dtype::float32);
        const std::size_t values = rows * static_cast<std::size_t>(backend.sizes().state_width(Kind::image));
        auto* states = space.states.get<std::byte>(values * width_of(type));
        auto* wide = type == Dtype::float32 ? reinterpret_cast<float*>(states) : space.wide.get<float>(values);
        backend.expand_regions(regions, count, extent.longest, wide);
        if (type != Dtype::float32) {
            convert(wide, Dtype::float32, states, type, values);
        }
        return {states, lengths, count, extent.longest};
    }
    if (extent.is_run && gallery.type == stored_type(type)) {
        return {gallery.row(extent.first), lengths, count, extent.longest};
    }
    auto* states = space.states.get<std::byte>(rows * gallery.columns * width_of(type));
    pad(gallery, backend.sizes(), items, n, extent.longest, states, type);
    return {states, lengths, count, extent.longest};
}

kernels::StateType stored_type(Dtype type) noexcept {
    return type == Dtype::float16 ? kernels::StateType::kFloat16 : kernels::StateType::kFloat32;
}

void convert(const void* from, Dtype from_type, void* to, Dtype to_type, std::size_t values) {
    if (from_type == to_type) {
        std::memcpy(to, from, values * width_of(to_type));
    } else if (to_type == Dtype::float32) {
        const auto* halves = static_cast<const std::uint16_t*>(from);
        std::transform(halves, halves + values, static_cast<float*>(to), half_to_float);
    } else {
        const auto* floats = static_cast<const float*>(from);
        std::transform(floats, floats + values, static_cast<std::uint16_t*>(to), float_to_half);
    }
}

bool all_finite(const void* values, Dtype type, std::size_t count) {
    // NaN and infinity have the largest exponent. No early exit, so that the loop is vectorized.
    std::uint32_t found = 0;
    if (type == Dtype::float16) {
        const auto* halves = static_cast<const std::uint16_t*>(values);
        for (std::size_t i = 0; i < count; ++i) {
            found |= (halves[i] & 0x7C00U) == 0x7C00U ? 1U : 0U;
        }
    } else {
        const auto* bits = static_cast<const std::byte*>(values);
        for (std::size_t i = 0; i < count; ++i) {
            std::uint32_t value = 0;
            std::memcpy(&value, bits + i * sizeof value, sizeof value);
            found |= (value & 0x7F800000U) == 0x7F800000U ? 1U : 0U;
        }
    }
    return found == 0;
}

} // namespace caan::detail
