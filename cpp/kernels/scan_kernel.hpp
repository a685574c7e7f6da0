#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

namespace caan::kernels {

/// Below every sum of products.
constexpr std::int32_t kNoSum = std::numeric_limits<std::int32_t>::min();

/// The best sketches for one query so far, of those that one thread has seen, in the order of their index.
struct Best {
  std::uint64_t* keys;  // (capacity,): larger is better
  std::size_t size, capacity, wanted;
  std::int32_t threshold;  // `wanted` sketches have this sum or more: a later one needs more

  static std::uint64_t key(std::int32_t sum, std::uint32_t index) {
    return std::uint64_t{static_cast<std::uint32_t>(sum) ^ 0x80000000u} << 32 | static_cast<std::uint32_t>(~index);
  }
  static std::int32_t sum_of(std::uint64_t key) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(key >> 32) ^ 0x80000000u);
  }
  static std::uint32_t index_of(std::uint64_t key) { return ~static_cast<std::uint32_t>(key); }

  /// Keeps the best `wanted`, where there are more.
  void prune();
};

/// Most sketches that `prune` may be late by.
constexpr std::size_t kSpareKeys = 256;

/// Row stride of queries, a multiple of all vectors' lanes; their columns beyond a sketch's are 0.
constexpr std::size_t kQueryPadding = 32;

/// Adds `rows` sketches, the first of which has the index `first`, to the best of each query. queries
/// (number, columns up to a multiple of kQueryPadding), aligned to kAlignment.
using Scan = void (*)(const std::int8_t* sketches, std::size_t rows, std::size_t columns, const std::int16_t* queries,
                      std::size_t number, const std::uint8_t* skip, std::uint32_t first, Best* best);

/// The best for this processor.
Scan find_scan();

}  // namespace caan::kernels
