#include "top_k.hpp"

#include <algorithm>
#include <cmath>

namespace caan::detail {
namespace {

bool is_better(const Hit& a, const Hit& b) { return a.score > b.score || (a.score == b.score && a.index < b.index); }

} // namespace

TopK::TopK(std::size_t queries, std::size_t k) : k_(k), best_(queries) {}

void TopK::add(const std::int64_t* queries, std::size_t n, std::size_t query_step, const std::int64_t* items,
               std::size_t m, std::size_t item_step, const float* scores) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::size_t q = 0; q < n; ++q) {
        std::vector<Hit>& heap = best_[static_cast<std::size_t>(queries[q])];
        for (std::size_t i = 0; i < m; ++i) {
            const Hit hit{items[i], scores[q * query_step + i * item_step]};
            if (std::isnan(hit.score)) {
                continue; // NaN has no place in an order
            }
            if (heap.size() < k_) {
                heap.push_back(hit);
            } else if (is_better(hit, heap.front())) {
                std::pop_heap(heap.begin(), heap.end(), is_better);
                heap.back() = hit;
            } else {
                continue;
            }
            std::push_heap(heap.begin(), heap.end(), is_better);
        }
    }
}

std::vector<std::vector<Hit>> TopK::sorted() && {
    for (std::vector<Hit>& heap : best_) {
        std::sort_heap(heap.begin(), heap.end(), is_better);
    }
    return std::move(best_);
}

} // namespace caan::detail
