#include "top_k.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "helpers.hpp"

using caan::Hit;
using caan::detail::TopK;

namespace {

std::vector<std::int64_t> indices(const std::vector<Hit>& hits) {
    std::vector<std::int64_t> found;
    for (const Hit& hit : hits) {
        found.push_back(hit.index);
    }
    return found;
}

/// The k best scores, by sorting all of them.
std::vector<std::int64_t> brute_force(const std::vector<float>& scores, std::size_t k) {
    std::vector<std::int64_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
        return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
    });
    order.resize(k);
    return order;
}

} // namespace

TEST_CASE("ties rank by index, in whatever order and blocks they arrive") {
    std::mt19937 random(1);
    for (int round = 0; round < 500; ++round) {
        const std::size_t items = 1 + random() % 40, k = 1 + random() % items;
        std::vector<float> scores(items);
        for (float& score : scores) {
            score = static_cast<float>(random() % 4); // many ties
        }
        std::vector<std::int64_t> order(items);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random);
        TopK best(1, k);
        const std::int64_t query = 0;
        for (std::size_t start = 0; start < items;) {
            const std::size_t n = std::min<std::size_t>(1 + random() % 7, items - start);
            std::vector<float> piece;
            for (std::size_t i = start; i < start + n; ++i) {
                piece.push_back(scores[static_cast<std::size_t>(order[i])]);
            }
            best.add(&query, 1, n, order.data() + start, n, 1, piece.data());
            start += n;
        }
        REQUIRE(indices(std::move(best).sorted()[0]) == brute_force(scores, k));
    }
}

TEST_CASE("scores are read by their steps: the queries may be rows or columns") {
    const std::int64_t queries[] = {1, 0}, items[] = {10, 11, 12};
    const float by_row[] = {1, 2, 3, 6, 5, 4};    // (queries, items)
    const float by_column[] = {1, 6, 2, 5, 3, 4}; // (items, queries)
    TopK rows(2, 2), columns(2, 2);
    rows.add(queries, 2, 3, items, 3, 1, by_row);
    columns.add(queries, 2, 1, items, 3, 2, by_column);
    const auto found = std::move(rows).sorted(), other = std::move(columns).sorted();
    CHECK(indices(found[0]) == std::vector<std::int64_t>{10, 11});
    CHECK(indices(found[1]) == std::vector<std::int64_t>{12, 11});
    CHECK(indices(other[0]) == indices(found[0]));
    CHECK(indices(other[1]) == indices(found[1]));
}

TEST_CASE("infinities rank, NaN does not") {
    const float infinity = std::numeric_limits<float>::infinity();
    const float scores[] = {-infinity, std::nanf(""), 1, infinity};
    const std::int64_t query = 0, items[] = {0, 1, 2, 3};
    TopK best(1, 4);
    best.add(&query, 1, 4, items, 4, 1, scores);
    CHECK(indices(std::move(best).sorted()[0]) == std::vector<std::int64_t>{3, 2, 0});
}
