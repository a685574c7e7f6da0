#include "tiling.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace caan::detail {
namespace {

// Copies of the (R + T) × d products alive at once in a runtime: the sum's three terms and its result.
constexpr double LIVE_COPIES = 4;

} // namespace

TileSize tile_size(std::int64_t regions, std::int64_t words, std::int64_t attention_dim, std::size_t budget) {
    const auto r = static_cast<double>(regions), t = static_cast<double>(words), d = static_cast<double>(attention_dim);
    const double per_pair = 4 * LIVE_COPIES * ((r + t) * d + 2 * r * t);
    const auto side = static_cast<std::size_t>(std::max(1.0, std::sqrt(static_cast<double>(budget) / per_pair)));
    return {side, side};
}

TileSize widen(TileSize tile, std::size_t images, std::size_t captions) {
    const std::size_t pairs = tile.images * tile.captions;
    const std::size_t c = std::min(tile.captions, captions);
    const std::size_t n = std::min(std::max(tile.images, pairs / c), images);
    return {n, std::min(std::max(c, pairs / n), captions)};
}

std::vector<std::int64_t> by_length(const std::vector<std::int64_t>& lengths) {
    std::vector<std::int64_t> order(lengths.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return lengths[static_cast<std::size_t>(a)] < lengths[static_cast<std::size_t>(b)];
    });
    return order;
}

} // namespace caan::detail
