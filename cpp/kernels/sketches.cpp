#include "sketches.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "buffer.hpp"
#include "scan_kernel.hpp"
#include "scorer.hpp"
#include "thread_pool.hpp"

namespace caan::kernels {
namespace {

// What one thread scans at a time: part of its L2 cache.
constexpr std::size_t kTaskBytes = std::size_t{256} << 10;

// Keys of all threads and queries of one pass.
constexpr std::size_t kKeyBytes = std::size_t{256} << 20;

}  // namespace

void project(const float* pooled, const float* matrix, std::size_t items, std::size_t dim, std::size_t columns,
             float* projected) {
  const Kernel kernel = find_kernel(false);
  const State rows{matrix, dim, StateType::kFloat32};
  for (std::size_t i = 0; i < items; ++i) {
    kernel.pool(rows, columns, 1, columns, pooled + i * dim, projected + i * columns);
  }
}

void quantize(const float* projected, const float* steps, std::size_t items, std::size_t columns,
              std::int8_t* sketches) {
  for (std::size_t i = 0; i < items; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      const float steps_of_it = std::clamp(projected[i * columns + j] / steps[j], -127.0f, 127.0f);
      sketches[i * columns + j] = static_cast<std::int8_t>(std::nearbyint(steps_of_it));
    }
  }
}

void Best::prune() {
  if (size <= wanted) return;
  std::nth_element(keys, keys + (wanted - 1), keys + size, std::greater<>());
  size = wanted;
  threshold = sum_of(keys[wanted - 1]);
}

struct Scanner::Work {
  explicit Work(std::size_t threads) : pool(threads) {}

  std::unique_ptr<Work> again() const { return std::make_unique<Work>(pool.size()); }

  const Scan scan = find_scan();
  Buffer padded, keys;
  std::vector<Best> bests;  // (threads, queries)
  std::mutex turn;
  ThreadPool pool;
};

Scanner::Scanner(std::size_t threads) {
  check_threads(threads);
  work_ = PerProcess<Work>(std::make_unique<Work>(threads));
}

Scanner::~Scanner() = default;
Scanner::Scanner(Scanner&& other) noexcept = default;
Scanner& Scanner::operator=(Scanner&& other) noexcept = default;

std::size_t Scanner::best(const std::int8_t* sketches, std::size_t items, std::size_t columns,
                          const std::int16_t* queries, std::size_t number_of_queries, const std::uint8_t* skip,
                          std::size_t number, std::int64_t* indices, std::int32_t* sums) {
  if (columns == 0 || columns % kSketchStep != 0 || columns > kLargestSketch) {
    throw std::invalid_argument("sketches have 16, 32, 48, ... or 512 columns");
  }
  if (items > kMostSketches) throw std::invalid_argument("more than 4,294,967,295 sketches");
  const auto skipped = skip == nullptr ? 0 : items - static_cast<std::size_t>(std::count(skip, skip + items, 0));
  const std::size_t wanted = std::min(number, items - skipped);
  if (wanted == 0 || number_of_queries == 0) return wanted;

  Work& work = work_.own();
  const std::lock_guard<std::mutex> lock(work.turn);
  const std::size_t threads = work.pool.size();
  const std::size_t stride = (columns + kQueryPadding - 1) / kQueryPadding * kQueryPadding;
  const std::size_t capacity = wanted + std::max(wanted, kSpareKeys);
  const std::size_t run =
      std::clamp<std::size_t>(kKeyBytes / sizeof(std::uint64_t) / capacity / threads, 1, number_of_queries);
  auto* keys = reinterpret_cast<std::uint64_t*>(work.keys.at_least(threads * run * capacity * sizeof(std::uint64_t)));
  auto* padded = reinterpret_cast<std::int16_t*>(work.padded.at_least(run * stride * sizeof(std::int16_t)));
  const std::size_t rows = std::max<std::size_t>(1, kTaskBytes / columns);
  for (std::size_t begin = 0; begin < number_of_queries; begin += run) {
    const std::size_t these = std::min(run, number_of_queries - begin);
    for (std::size_t i = 0; i < these; ++i) {
      std::memcpy(padded + i * stride, queries + (begin + i) * columns, columns * sizeof(std::int16_t));
      std::fill(padded + i * stride + columns, padded + (i + 1) * stride, std::int16_t{0});
    }
    work.bests.clear();
    for (std::size_t i = 0; i < threads * these; ++i) {
      work.bests.push_back({keys + i * capacity, 0, capacity, wanted, kNoSum});
    }
    work.pool.run((items + rows - 1) / rows, [&](std::size_t thread, std::size_t task) {
      const std::size_t first = task * rows;
      work.scan(sketches + first * columns, std::min(rows, items - first), columns, padded, these,
                skip == nullptr ? nullptr : skip + first, static_cast<std::uint32_t>(first),
                work.bests.data() + thread * these);
    });
    work.pool.run(these, [&](std::size_t, std::size_t query) {
      Best& all = work.bests[query];
      for (std::size_t thread = 1; thread < threads; ++thread) {
        const Best& other = work.bests[thread * these + query];
        for (std::size_t i = 0; i < other.size; ++i) {
          if (all.size == all.capacity) all.prune();
          all.keys[all.size++] = other.keys[i];
        }
      }
      all.prune();
      std::sort(all.keys, all.keys + wanted, std::greater<>());
      for (std::size_t i = 0; i < wanted; ++i) {
        indices[(begin + query) * wanted + i] = Best::index_of(all.keys[i]);
        sums[(begin + query) * wanted + i] = Best::sum_of(all.keys[i]);
      }
    });
  }
  return wanted;
}

}  // namespace caan::kernels
