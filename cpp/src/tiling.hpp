/// Block sizes of scorer calls, as in tiling.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace caan::detail {

inline constexpr std::size_t CPU_TILE_BYTES = std::size_t{64} << 20;
// Python tunes itself before a call of this many pairs, usually with the result of these tiles in concurrent calls.
inline constexpr std::size_t WORTH_TUNING_PAIRS = 300'000, TUNED_TILE_BYTES = std::size_t{8} << 20;
inline constexpr std::size_t GPU_TILE_BYTES = std::size_t{1} << 30;

/// At most this many images × captions in one scorer call.
struct TileSize {
    std::size_t images, captions;
};

/// The largest square tile whose intermediates fit into `budget` bytes; at least one pair.
TileSize tile_size(std::int64_t regions, std::int64_t words, std::int64_t attention_dim, std::size_t budget);

/// Give the room left by a short side to the other: a single query takes many items at a time.
TileSize widen(TileSize tile, std::size_t images, std::size_t captions);

/// Indices 0 to lengths.size() - 1, sorted by length to minimize padding; stable.
std::vector<std::int64_t> by_length(const std::vector<std::int64_t>& lengths);

} // namespace caan::detail
