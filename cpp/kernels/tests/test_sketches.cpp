// The scan against a stable sort, and rounding; on every instruction set.
#include <algorithm>
#include <random>

#include "helpers.hpp"
#include "sketches.hpp"

using namespace caan_test;
using caan::kernels::Scanner;

namespace {

struct Found {
  std::vector<std::int64_t> indices;
  std::vector<std::int32_t> sums;
  bool operator==(const Found& other) const { return indices == other.indices && sums == other.sums; }
};

struct Sketches {
  Sketches(std::size_t number, std::size_t number_of_columns, std::size_t number_of_queries, int largest)
      : items(number),
        columns(number_of_columns),
        asked(number_of_queries),
        bytes(items * columns + 1),
        queries(asked * columns),
        skip(items) {
    std::mt19937 random(static_cast<unsigned>(number));
    const auto draw = [&](int limit) { return std::uniform_int_distribution<int>(-limit, limit)(random); };
    for (std::int8_t& x : bytes) x = static_cast<std::int8_t>(draw(std::min(largest, 127)));
    for (std::int16_t& x : queries) x = static_cast<std::int16_t>(draw(largest));
    for (std::uint8_t& x : skip) x = draw(2) == 0;
  }

  const std::int8_t* data() const { return bytes.data() + 1; }  // at an odd address

  Found best(std::size_t number, bool with_skip, std::size_t threads) const {
    Found found{std::vector<std::int64_t>(asked * std::min(number, items)),
                std::vector<std::int32_t>(asked * std::min(number, items))};
    const std::size_t each =
        Scanner(threads).best(data(), items, columns, queries.data(), asked, with_skip ? skip.data() : nullptr, number,
                              found.indices.data(), found.sums.data());
    found.indices.resize(asked * each);
    found.sums.resize(asked * each);
    return found;
  }

  Found sorted(std::size_t number, bool with_skip) const {
    Found result;
    for (std::size_t q = 0; q < asked; ++q) {
      std::vector<std::pair<std::int32_t, std::int64_t>> all;  // minus the sum, so that pairs sort as the best do
      for (std::size_t i = 0; i < items; ++i) {
        std::int32_t sum = 0;
        for (std::size_t j = 0; j < columns; ++j) sum += data()[i * columns + j] * queries[q * columns + j];
        if (!with_skip || skip[i] == 0) all.emplace_back(-sum, i);
      }
      std::sort(all.begin(), all.end());
      all.resize(std::min(number, all.size()));
      for (const auto& [minus, index] : all) {
        result.indices.push_back(index);
        result.sums.push_back(-minus);
      }
    }
    return result;
  }

  std::size_t items, columns, asked;
  std::vector<std::int8_t> bytes;
  std::vector<std::int16_t> queries;
  std::vector<std::uint8_t> skip;
};

}  // namespace

TEST_CASE("a scan finds what a stable sort does") {
  const bool with_skip = GENERATE(false, true);
  const int largest = GENERATE(1, 127, 32767);  // 1: many equal sums
  for (const std::size_t columns : {16, 48, 64, 512}) {
    for (const std::size_t items : {0, 1, 3, 8, 257, 3000}) {
      const Sketches some(items, columns, 1 + items % 3, largest);
      for (const std::size_t number : {0, 1, 10, 300, 5000}) {
        const Found expected = some.sorted(number, with_skip);
        on_each_instruction_set([&] {
          CHECK(some.best(number, with_skip, 1) == expected);
          CHECK(some.best(number, with_skip, 3) == expected);
        });
      }
    }
  }
}

TEST_CASE("a scanner may be used again, moved, and by several threads' calls") {
  const Sketches some(3000, 64, 2, 127), few(20, 16, 1, 127);
  Scanner scanner(2);
  std::vector<std::int64_t> indices(40);
  std::vector<std::int32_t> sums(40);
  const auto right = [&](Scanner& any, const Sketches& sketches) {
    any.best(sketches.data(), sketches.items, sketches.columns, sketches.queries.data(), sketches.asked, nullptr, 20,
             indices.data(), sums.data());
    const Found expected = sketches.sorted(20, false);
    return std::equal(expected.indices.begin(), expected.indices.end(), indices.begin());
  };
  CHECK((right(scanner, some) && right(scanner, few) && right(scanner, some)));
  Scanner moved = std::move(scanner);
  CHECK(right(moved, some));
}

TEST_CASE("sketches that can't be scanned") {
  Scanner scanner(1);
  const Sketches some(4, 64, 1, 127);
  std::int64_t index;
  std::int32_t sum;
  for (const std::size_t columns : {0, 8, 24, 528}) {
    CHECK_THROWS_AS(scanner.best(some.data(), 1, columns, some.queries.data(), 1, nullptr, 1, &index, &sum),
                    std::invalid_argument);
  }
  CHECK_THROWS_AS(scanner.best(some.data(), std::size_t{1} << 32, 16, some.queries.data(), 1, nullptr, 1, &index, &sum),
                  std::invalid_argument);
  CHECK_THROWS_AS(Scanner(0), std::invalid_argument);
}

TEST_CASE("projections are sums in order, and rounded to even") {
  std::vector<float> pooled(5 * 30), matrix(30 * 48), numbers{0.5f, 1.5f, -2.5f, 900, -900, 0.49f};
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (auto* values : {&pooled, &matrix}) {
    for (float& x : *values) x = normal(random);
  }
  std::vector<double> exact(5 * 48);
  for (std::size_t i = 0; i < 5; ++i) {
    for (std::size_t j = 0; j < 48; ++j) {
      for (std::size_t k = 0; k < 30; ++k) exact[i * 48 + j] += double{pooled[i * 30 + k]} * matrix[k * 48 + j];
    }
  }
  on_each_instruction_set([&] {
    std::vector<float> projected(5 * 48), alone(48);
    caan::kernels::project(pooled.data(), matrix.data(), 5, 30, 48, projected.data());
    CHECK(difference(projected, exact) <= 1e-5);
    caan::kernels::project(pooled.data() + 2 * 30, matrix.data(), 1, 30, 48, alone.data());
    CHECK(std::equal(alone.begin(), alone.end(), projected.begin() + 2 * 48));
  });
  const std::vector<float> ones(6, 1);
  std::vector<std::int8_t> rounded(6);
  caan::kernels::quantize(numbers.data(), ones.data(), 1, 6, rounded.data());
  CHECK(rounded == std::vector<std::int8_t>{0, 2, -2, 127, -127, 0});
}
