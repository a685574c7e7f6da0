// Concurrent calls; also under ThreadSanitizer, as caan-kernel-thread-tests.
#include <atomic>
#include <thread>

#include "helpers.hpp"
#include "sketches.hpp"

using namespace caan_test;

namespace {

constexpr std::size_t kThreads = 16;

/// body(0), ..., body(15), all at once.
template <class Body>
void at_once(const Body& body) {
  std::atomic<std::size_t> ready{0};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      ++ready;
      while (ready < kThreads) std::this_thread::yield();
      body(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

TEST_CASE("16 threads may use one scorer at once") {
  const Drawn drawn(33, 20, 1, {36, 1, 7, 12}, {14, 3, 1, 20, 9});
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  const std::vector<float> expected = scores(drawn, precision);
  for (const std::size_t own_threads : {1, 3}) {
    Scorer scorer(drawn.parameters(), precision, own_threads);
    std::atomic<int> wrong{0};
    at_once([&](std::size_t thread) {
      for (std::size_t again = 0; again < 10; ++again) {
        // Calls have different numbers of images: buffers grow while other threads wait for them.
        const std::size_t number = 1 + (thread + again) % images.size();
        std::vector<float> found(number * captions.size());
        scorer.score(images.data(), number, captions.data(), captions.size(), found.data());
        if (!std::equal(found.begin(), found.end(), expected.begin())) ++wrong;
      }
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("16 threads may each make, use and end a scorer") {
  const Drawn drawn(8, 9, 1, {5, 1}, {4, 2, 3});
  const std::vector<float> expected = scores(drawn);
  std::atomic<int> wrong{0};
  at_once([&](std::size_t thread) {
    if (scores(drawn, Precision::kFloat32, 1 + thread % 3) != expected) ++wrong;
  });
  CHECK(wrong == 0);
}

TEST_CASE("a scorer that was never used, or was moved, ends") {
  const Drawn drawn(8, 9, 1, {5, 1}, {4, 2, 3});
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  for (int again = 0; again < 20; ++again) Scorer(drawn.parameters(), Precision::kFloat32, 4);
  Scorer first(drawn.parameters(), Precision::kFloat32, 3);
  Scorer second = std::move(first);
  first = Scorer(drawn.parameters(), Precision::kBFloat16, 2);
  std::vector<float> found(drawn.pairs());
  second.score(images.data(), images.size(), captions.data(), captions.size(), found.data());
  CHECK(found == scores(drawn));
}

TEST_CASE("16 threads may use one scanner at once") {
  std::vector<std::int8_t> sketches(30000 * 16);
  for (std::size_t i = 0; i < sketches.size(); ++i) sketches[i] = static_cast<std::int8_t>(i * 7 % 251 - 125);
  const std::vector<std::int16_t> queries(3 * 16, 5);
  caan::kernels::Scanner scanner(3);
  const auto best = [&](std::size_t asked) {
    std::vector<std::int64_t> indices(asked * 20);
    std::vector<std::int32_t> sums(asked * 20);
    scanner.best(sketches.data(), 30000, 16, queries.data(), asked, nullptr, 20, indices.data(), sums.data());
    return indices;
  };
  const std::vector<std::int64_t> expected = best(3);
  std::atomic<int> wrong{0};
  at_once([&](std::size_t thread) {
    for (std::size_t again = 0; again < 10; ++again) {
      const std::vector<std::int64_t> found = best(1 + (thread + again) % 3);
      if (!std::equal(found.begin(), found.end(), expected.begin())) ++wrong;
    }
  });
  CHECK(wrong == 0);
}
