// A scorer's memory accesses and allocations. malloc and its relatives, and the global operator new, are counted: the
// linker redirects the kernel's calls to these functions (CMakeLists.txt).
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#include "helpers.hpp"

using namespace caan_test;

namespace {

std::atomic<std::size_t> allocations{0};

const std::size_t kPage = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));

/// Memory that ends `gap` bytes before an inaccessible page, with another one before its first page.
struct Fenced {
  Fenced(std::size_t bytes, std::size_t gap)
      : pages((bytes + gap + kPage - 1) / kPage),
        fence(static_cast<std::byte*>(
            mmap(nullptr, (pages + 2) * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    mprotect(fence + kPage, pages * kPage, PROT_READ | PROT_WRITE);
    start = fence + (pages + 1) * kPage - gap - bytes;
  }
  void make_read_only() const { mprotect(fence + kPage, pages * kPage, PROT_READ); }
  void release() const { munmap(fence, (pages + 2) * kPage); }

  std::size_t pages;
  std::byte *fence, *start;
};

// The kernel's buffers, from aligned_alloc, are fenced in all of these tests.
std::mutex buffers_mutex;
std::array<Fenced*, 4096> buffers;
std::size_t buffers_used = 0;

}  // namespace

extern "C" {
void* __real_malloc(std::size_t);
void* __real_calloc(std::size_t, std::size_t);
void* __real_realloc(void*, std::size_t);
void* __real_aligned_alloc(std::size_t, std::size_t);
void __real_free(void*);
void* __wrap_malloc(std::size_t bytes) { return ++allocations, __real_malloc(bytes); }
void* __wrap_calloc(std::size_t number, std::size_t bytes) { return ++allocations, __real_calloc(number, bytes); }
void* __wrap_realloc(void* memory, std::size_t bytes) { return ++allocations, __real_realloc(memory, bytes); }

void* __wrap_aligned_alloc(std::size_t, std::size_t bytes) {
  ++allocations;
  const std::lock_guard<std::mutex> lock(buffers_mutex);
  std::size_t slot = 0;
  while (slot < buffers_used && buffers[slot] != nullptr) ++slot;
  if (slot == buffers.size()) return nullptr;
  buffers_used = std::max(buffers_used, slot + 1);
  // A multiple of the alignment, as C requires: so end and start are aligned.
  buffers[slot] = new (__real_malloc(sizeof(Fenced))) Fenced(bytes, 0);
  return buffers[slot]->start;
}

void __wrap_free(void* memory) {
  if (memory != nullptr) {
    const std::lock_guard<std::mutex> lock(buffers_mutex);
    for (std::size_t slot = 0; slot < buffers_used; ++slot) {
      if (buffers[slot] == nullptr || buffers[slot]->start != memory) continue;
      buffers[slot]->release();
      __real_free(std::exchange(buffers[slot], nullptr));
      return;
    }
  }
  __real_free(memory);
}
}

namespace {
void* allocate(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  // A multiple of the alignment, and never 0.
  void* memory = __real_aligned_alloc(alignment, (bytes / alignment + 1) * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) { return allocate(bytes, std::size_t(alignment)); }
void* operator new[](std::size_t bytes, std::align_val_t alignment) { return allocate(bytes, std::size_t(alignment)); }
// The sanitizers' own versions of these two would not match the deletes below.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

/// A copy of some bytes, fenced.
class FencedCopy {
 public:
  FencedCopy(const void* data, std::size_t bytes, std::size_t gap = 0) : memory_(bytes, gap) {
    std::memcpy(start(), data, bytes);
  }
  ~FencedCopy() { memory_.release(); }
  FencedCopy(const FencedCopy&) = delete;
  FencedCopy& operator=(const FencedCopy&) = delete;

  std::byte* start() const { return memory_.start; }
  void make_read_only() { memory_.make_read_only(); }
  /// The bytes before the copy in its first page.
  std::size_t before() const { return static_cast<std::size_t>(memory_.start - (memory_.fence + kPage)); }

 private:
  Fenced memory_;
};

}  // namespace

TEST_CASE("states are read at any address, and nothing around them") {
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  const StateType type = GENERATE(from_range(std::begin(kStateTypes), std::end(kStateTypes)));
  for (const std::size_t dim : {1, 3, 16, 17, 33, 64}) {
    INFO("embed_dim " << dim);
    Drawn drawn(dim, 70 - dim, 1, {1, 7}, {4, 1});
    const std::vector<std::vector<std::byte>> stored = drawn.store(type);
    on_each_instruction_set([&] {
      const std::vector<float> expected = scores(drawn, precision);
      for (const std::size_t gap : {0, 1, 2, 3, 30}) {
        std::vector<State> images = drawn.image_states(), captions = drawn.caption_states();
        std::vector<std::unique_ptr<FencedCopy>> memory;
        for (std::size_t i = 0; i < 4; ++i) {
          State& state = i < 2 ? images[i] : captions[i - 2];
          memory.push_back(std::make_unique<FencedCopy>(stored[i].data(), stored[i].size(), gap));
          memory.back()->make_read_only();
          state = {memory.back()->start(), state.length, type};
        }
        std::vector<float> found(4);
        Scorer(drawn.parameters(), precision, 1).score(images.data(), 2, captions.data(), 2, found.data());
        CHECK(found == expected);
      }
    });
  }
}

TEST_CASE("nothing is written but scores") {
  const Drawn drawn(20, 20, 1, range(1, 3), range(1, 7));
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    const std::vector<float> nothing(drawn.pairs(), -77);
    FencedCopy memory(nothing.data(), drawn.pairs() * sizeof(float));
    std::memset(memory.start() - memory.before(), 0xA5, memory.before());
    Scorer(drawn.parameters(), precision, 3)
        .score(images.data(), images.size(), captions.data(), captions.size(),
               reinterpret_cast<float*>(memory.start()));
    CHECK(std::memcmp(memory.start(), scores(drawn, precision).data(), drawn.pairs() * sizeof(float)) == 0);
    for (std::size_t i = 1; i <= memory.before(); ++i) {
      if (memory.start()[-static_cast<std::ptrdiff_t>(i)] != std::byte{0xA5})
        FAIL_CHECK("byte " << i << " before scores");
    }
  });
}

TEST_CASE("this counts") {
  const std::size_t before = allocations;
  const auto kept = std::make_unique<int>(1);
  std::free(std::malloc(static_cast<std::size_t>(*kept)));
  std::free(std::aligned_alloc(64, 64));
  CHECK(allocations - before == 3);
}

TEST_CASE("from the second call on nothing is allocated") {
  const Drawn drawn(40, 50, 1, {36, 1, 20}, {1, 14, 9, 14, 3});
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  std::vector<float> found(drawn.pairs());
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    for (const std::size_t threads : {1, 3}) {
      const std::size_t before_first = allocations;
      Scorer scorer(drawn.parameters(), precision, threads);
      scorer.score(images.data(), images.size(), captions.data(), captions.size(), found.data());
      CHECK(allocations > before_first);
      const std::size_t before = allocations;
      scorer.score(images.data(), images.size(), captions.data(), captions.size(), found.data());
      scorer.score(images.data() + 1, 2, captions.data(), 3, found.data());
      scorer.score(images.data(), 1, captions.data() + 1, 1, found.data());
      CHECK(allocations == before);
    }
  });
}

TEST_CASE("nothing to score is not an error, an item of length 0 is one") {
  const Drawn drawn(3, 4, 1, {2}, {2});
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  float found = -77;
  Scorer scorer(drawn.parameters(), Precision::kFloat32, 2);
  scorer.score(images.data(), 0, captions.data(), 1, &found);
  scorer.score(images.data(), 1, captions.data(), 0, &found);
  const State empty{images[0].rows, 0, StateType::kFloat32};
  CHECK_THROWS_AS(scorer.score(&empty, 1, captions.data(), 1, &found), std::invalid_argument);
  CHECK_THROWS_AS(scorer.score(images.data(), 1, &empty, 1, &found), std::invalid_argument);
  CHECK(found == -77);
  const float w = 1;
  CHECK_THROWS_AS(Scorer({0, 1, 1, &w, &w}, Precision::kFloat32, 1), std::invalid_argument);
  CHECK_THROWS_AS(Scorer({1, 0, 1, &w, &w}, Precision::kFloat32, 1), std::invalid_argument);
  CHECK_THROWS_AS(Scorer({1, 1, 1, &w, &w}, Precision::kFloat32, 0), std::invalid_argument);
}
