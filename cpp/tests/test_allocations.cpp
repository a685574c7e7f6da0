/// After warm-up the library allocates nothing per tile: the number of a call's allocations does not depend on its
/// tiles.
///
/// A separate program, since it replaces the global operator new. ONNX Runtime's allocations inside a call use the same
/// operator and are excluded by their caller's address: only code of this program counts, which the library is linked
/// into. The linker redirects the kernel's aligned_alloc here (CMakeLists.txt).
#include <atomic>
#include <cstdlib>
#include <new>

#include "helpers.hpp"

// The program's own code, from the linker.
extern "C" {
extern const char __executable_start;                                 // NOLINT
extern const char etext;                                              // NOLINT
void* __real_aligned_alloc(std::size_t alignment, std::size_t bytes); // NOLINT
}

namespace {

std::atomic<std::size_t> allocations{0};

void* allocate(std::size_t bytes, std::size_t alignment, const void* caller) {
    const auto* const address = static_cast<const char*>(caller);
    if (address >= &__executable_start && address < &etext) {
        allocations.fetch_add(1, std::memory_order_relaxed);
    }
    // A multiple of the alignment, and never 0.
    const std::size_t size = (bytes / alignment + 1) * alignment;
    void* memory = alignment <= alignof(std::max_align_t) ? std::malloc(size) : __real_aligned_alloc(alignment, size);
    if (memory == nullptr) {
        throw std::bad_alloc();
    }
    return memory;
}

} // namespace

// NOLINTNEXTLINE
extern "C" void* __wrap_aligned_alloc(std::size_t alignment, std::size_t bytes) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __real_aligned_alloc(alignment, bytes);
}

void* operator new(std::size_t bytes) { return allocate(bytes, 1, __builtin_return_address(0)); }
void* operator new[](std::size_t bytes) { return allocate(bytes, 1, __builtin_return_address(0)); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return allocate(bytes, 1, __builtin_return_address(0));
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
    return allocate(bytes, 1, __builtin_return_address(0));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, static_cast<std::size_t>(alignment), __builtin_return_address(0));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, static_cast<std::size_t>(alignment), __builtin_return_address(0));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

using namespace caan_test;

namespace {

/// Allocations of a warm call with tiles of so many bytes.
template <typename Call>
std::size_t allocations_of(const std::string& backend, std::size_t tile_bytes, const Call& call) {
    caan::Options options = quiet();
    options.backend = backend;
    options.tile_bytes = tile_bytes;
    options.workers = 1;
    const caan::Retriever warm = caan::Retriever::open(data("model.caan"), options);
    call(warm);
    const std::size_t before = allocations;
    call(warm);
    return allocations - before;
}

// Some 3,000 tiles, and one for each encoder call.
constexpr std::size_t SMALL = 20'000, LARGE = std::size_t{1} << 30;

} // namespace

TEST_CASE("allocations are counted") {
    const std::size_t before = allocations;
    const auto kept = std::make_unique<int>(1);
    CHECK(allocations - before == 1);
}

TEST_CASE("scoring allocates nothing per tile") {
    const std::string backend = GENERATE(as<std::string>{}, "native", "onnxruntime");
    const std::string name = GENERATE(as<std::string>{}, "float32", "float16", "compact", "compact32", "deleted");
    const caan::Gallery gallery = caan::Gallery::open(data("galleries/" + name));
    std::vector<float> scores(gallery.size() * captions().size());
    const auto captions = caption_list();
    const auto score = [&](const caan::Retriever& warm) { warm.score_matrix(gallery, captions, scores.data()); };
    CHECK(allocations_of(backend, SMALL, score) == allocations_of(backend, LARGE, score));
    const auto search = [&](const caan::Retriever& warm) { warm.search_many(captions, gallery, 5); };
    CHECK(allocations_of(backend, SMALL, search) == allocations_of(backend, LARGE, search));
}

TEST_CASE("nor does scoring galleries of captions with galleries of images") {
    const std::string backend = GENERATE(as<std::string>{}, "native", "onnxruntime");
    const caan::Gallery texts = caan::Gallery::open(data("galleries/texts"));
    std::vector<float> scores(images().size() * texts.size());
    const auto score = [&](const caan::Retriever& warm) { warm.score_matrix(images(), texts, scores.data()); };
    CHECK(allocations_of(backend, SMALL, score) == allocations_of(backend, LARGE, score));
    const auto search = [&](const caan::Retriever& warm) { warm.search_many(images(), texts, 5); };
    CHECK(allocations_of(backend, SMALL, search) == allocations_of(backend, LARGE, search));
}

TEST_CASE("native scores galleries without allocating at all") {
    const std::string name = GENERATE(as<std::string>{}, "float32", "float16", "compact", "deleted");
    const caan::Gallery gallery = caan::Gallery::open(data("galleries/" + name)),
                        texts = caan::Gallery::open(data("galleries/texts"));
    std::vector<float> scores(gallery.size() * texts.size());
    const auto score = [&](const caan::Retriever& warm) { warm.score_matrix(gallery, texts, scores.data()); };
    CHECK(allocations_of("native", LARGE, score) == 0);
}
