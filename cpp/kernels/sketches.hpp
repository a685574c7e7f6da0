#pragma once

#include <cstddef>
#include <cstdint>

#include "per_process.hpp"

/// Sketches: some bytes per item, whose integer products with a query's sketch rank a gallery before it is scored.
namespace caan::kernels {

/// Columns of a sketch are a multiple of this.
inline constexpr std::size_t kSketchStep = 16;
inline constexpr std::size_t kLargestSketch = 512;

/// Sketches per scan.
inline constexpr std::size_t kMostSketches = 0xFFFFFFFF;

/// projected (items, columns) = pooled (items, dim) times matrix (dim, columns), row-major. Each number is summed in
/// the order of `dim`: an item's result depends neither on the other items nor on threads, only on the instruction set.
void project(const float* pooled, const float* matrix, std::size_t items, std::size_t dim, std::size_t columns,
             float* projected);

/// sketches (items, columns): projected / steps[column], rounded to the nearest integer, halves to even, and limited to
/// -127 to 127. No number may be NaN.
void quantize(const float* projected, const float* steps, std::size_t items, std::size_t columns,
              std::int8_t* sketches);

/// Finds the sketches with the largest products. Thread-safe: calls are serialized, each on all threads. A forked
/// process starts its own threads with its first call.
class Scanner {
 public:
  /// Throws std::invalid_argument for no threads or more than kMostThreads; std::system_error where they can't be
  /// started.
  explicit Scanner(std::size_t threads);
  ~Scanner();
  Scanner(Scanner&& other) noexcept;
  Scanner& operator=(Scanner&& other) noexcept;

  /// The best `number` of `items` sketches for each query: those with the largest products, in falling order, equal
  /// ones in the order of their index. sketches (items, columns) and queries (queries, columns), row-major, at any
  /// address; -32,767 to 32,767 in queries, so that all sums are exact. skip (items,), or null: where it is not 0, the
  /// sketch is left out. Memory is read once for many queries.
  ///
  /// Returns how many there are per query: `number`, or all that are not skipped. indices and sums: (queries, that
  /// number), in memory for (queries, min(number, items)).
  ///
  /// Throws std::invalid_argument for columns that are no multiple of kSketchStep or more than kLargestSketch, and more
  /// than kMostSketches items; std::bad_alloc.
  std::size_t best(const std::int8_t* sketches, std::size_t items, std::size_t columns, const std::int16_t* queries,
                   std::size_t number_of_queries, const std::uint8_t* skip, std::size_t number, std::int64_t* indices,
                   std::int32_t* sums);

 private:
  struct Work;

  PerProcess<Work> work_;
};

}  // namespace caan::kernels
