/// The best items of many queries, from a stream of scores: the matrix queries × items never exists at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include <caan/caan.hpp>

namespace caan::detail {

/// The k best items of each query so far. Ties rank by the item's index. The result does not depend on the order or
/// the blocks in which scores arrive. May be used from several threads.
class TopK {
public:
    TopK(std::size_t queries, std::size_t k);

    /// Add scores of items (m), each once, for queries (n). Score of query q and item i: scores[q * query_step +
    /// i * item_step].
    void add(const std::int64_t* queries, std::size_t n, std::size_t query_step, const std::int64_t* items,
             std::size_t m, std::size_t item_step, const float* scores);

    /// Each query's hits, best first; fewer than k if fewer items were added.
    std::vector<std::vector<Hit>> sorted() &&;

private:
    std::size_t k_;
    std::vector<std::vector<Hit>> best_; // heaps, the worst kept hit first
    std::mutex mutex_;
};

} // namespace caan::detail
