// A process forked from one with a scorer, whose threads it lacks.
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "helpers.hpp"
#include "sketches.hpp"

using namespace caan_test;

TEST_CASE("a forked process scores with threads of its own") {
  const Drawn drawn(33, 20, 1, {36, 1, 7, 12}, {14, 3, 1, 20, 9});
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  const std::vector<float> expected = scores(drawn, precision);
  Scorer scorer(drawn.parameters(), precision, 3);
  const auto is_right = [&] {
    std::vector<float> found(drawn.pairs());
    scorer.score(images.data(), images.size(), captions.data(), captions.size(), found.data());
    return found == expected;
  };
  CHECK(is_right());
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    // Several threads at once notice that the pool's threads are gone.
    bool right[4];
    std::vector<std::thread> threads;
    for (bool& one : right) threads.emplace_back([&] { one = is_right(); });
    for (std::thread& thread : threads) thread.join();
    const bool all = right[0] && right[1] && right[2] && right[3] && is_right();
    { const Scorer ended = std::move(scorer); }
    _exit(all ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(is_right());
}

TEST_CASE("a forked process scans with threads of its own") {
  const std::vector<std::int8_t> sketches(20000 * 16, 1);
  const std::vector<std::int16_t> query(16, 1);
  caan::kernels::Scanner scanner(3);
  const auto is_right = [&] {
    std::int64_t index = -1;
    std::int32_t sum = -1;
    scanner.best(sketches.data(), 20000, 16, query.data(), 1, nullptr, 1, &index, &sum);
    return index == 0 && sum == 16;
  };
  CHECK(is_right());
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(is_right() ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(is_right());
}
