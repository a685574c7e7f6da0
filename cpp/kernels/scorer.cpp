#include "scorer.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "thread_pool.hpp"

namespace caan::kernels {
namespace {

// Packed captions stay in the shared last-level cache while image after image is scored against them.
constexpr std::size_t kCaptionBytes = std::size_t{8} << 20;

// Captions per step for a single image, packed just before use.
constexpr std::size_t kFewCaptions = 4;

constexpr const char* kTooLarge = "larger than 1,048,576";

/// Bytes aligned to a cache line, initially zero; they grow, and never shrink.
class Buffer {
 public:
  std::byte* at_least(std::size_t bytes) {
    if (bytes <= bytes_) return data_.get();
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded)));
    bytes_ = 0;
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, rounded);
    bytes_ = rounded;
    return data_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t bytes_ = 0;
};

/// One thread's memory, sharing no cache line with another thread.
struct alignas(kAlignment) Worker {
  Buffer image, captions, scratch;
  std::size_t packed = static_cast<std::size_t>(-1);  // the image that lies in `image`
};

long this_process() {
#if defined(__unix__) || defined(__APPLE__)
  return getpid();
#else
  return 0;  // nothing forks there
#endif
}

float largest(const float* numbers, std::size_t number) {
  float result = 0;
  for (std::size_t i = 0; i < number; ++i) result = std::max(result, std::abs(numbers[i]));
  for (std::size_t i = 0; i < number; ++i) result += 0 * numbers[i];
  return result;
}

std::size_t longest(const State* states, std::size_t number, const char* what) {
  std::size_t length = 0;
  for (std::size_t i = 0; i < number; ++i) {
    if (states[i].length == 0) throw std::invalid_argument(std::string(what) + " has length 0");
    if (states[i].length > kLargestSize) throw std::invalid_argument(std::string(what) + " is " + kTooLarge);
    length = std::max(length, states[i].length);
  }
  return length;
}

}  // namespace

struct Scorer::Work {
  Work(const Parameters& parameters, const Kernel& functions, std::size_t threads)
      : kernel(functions), pool(threads), workers(threads) {
    const std::size_t padded = (parameters.attention_dim + kColumnPadding - 1) / kColumnPadding * kColumnPadding;
    auto* w = reinterpret_cast<float*>(weights.at_least(2 * padded * sizeof(float)));
    std::copy_n(parameters.w_v, parameters.attention_dim, w);
    std::copy_n(parameters.w_u, parameters.attention_dim, w + padded);
    model = {parameters.embed_dim, parameters.attention_dim, parameters.attention_scale, w,
             w + padded,           largest(w, padded),       largest(w + padded, padded)};
  }

  std::size_t bytes_of_image(const State& image) const {
    return image.length * row_bytes(image.type, 2 * model.embed_dim + 3 * model.attention_dim, kImageMatrices);
  }
  std::size_t bytes_of_caption(const State& caption) const {
    return caption.length * row_bytes(caption.type, model.embed_dim + 3 * model.attention_dim, kCaptionMatrices);
  }
  void score_one_image(const State& image, const State* captions, std::size_t number, std::size_t words, float* scores);
  void pack(const State* captions, std::size_t number);
  void score_packed(const State* images, std::size_t number, std::size_t stride, float* scores);

  const long process = this_process();
  Kernel kernel;
  Buffer weights, packed_bytes;
  Model model{};
  std::vector<Packed> packed;
  std::mutex turn;
  ThreadPool pool;
  std::vector<Worker> workers;
};

Scorer::Scorer(const Parameters& parameters, Precision precision, std::size_t threads) {
  if (parameters.embed_dim == 0 || parameters.attention_dim == 0) throw std::invalid_argument("a dimension is 0");
  if (parameters.embed_dim > kLargestSize || parameters.attention_dim > kLargestSize) {
    throw std::invalid_argument(std::string("a dimension is ") + kTooLarge);
  }
  if (!std::isfinite(parameters.attention_scale)) throw std::invalid_argument("attention_scale is not finite");
  if (threads == 0) throw std::invalid_argument("no threads");
  if (threads > kMostThreads) throw std::invalid_argument("more than 4,096 threads");
  work_ = new Work(parameters, find_kernel(precision == Precision::kBFloat16), threads);
}

Scorer::~Scorer() {
  const Work* work = work_;
  // A forked copy would wait forever for threads that this process lacks: it is leaked, and ends with the process.
  if (work != nullptr && work->process == this_process()) delete work;
}

Scorer::Scorer(Scorer&& other) noexcept : work_(other.work_.exchange(nullptr)) {}

Scorer& Scorer::operator=(Scorer&& other) noexcept {
  other.work_ = work_.exchange(other.work_);
  return *this;
}

const char* Scorer::instruction_set() const { return work_.load()->kernel.instruction_set; }

/// This process's pool. The parent's is left alone: a thread that does not exist here may hold its locks.
Scorer::Work& Scorer::own_work() {
  Work* there = work_;
  if (there->process == this_process()) return *there;
  const Model& model = there->model;
  const Parameters parameters{model.embed_dim, model.attention_dim, model.attention_scale, model.w_v, model.w_u};
  auto own = std::make_unique<Work>(parameters, there->kernel, there->pool.size());
  // Another thread of this process may have been first.
  return work_.compare_exchange_strong(there, own.get()) ? *own.release() : *there;
}

void Scorer::score(const State* images, std::size_t number_of_images, const State* captions,
                   std::size_t number_of_captions, float* scores) {
  Work& work = own_work();
  const std::size_t regions = longest(images, number_of_images, "an image");
  const std::size_t words = longest(captions, number_of_captions, "a caption");
  if (regions == 0 || words == 0) return;
  const std::lock_guard<std::mutex> lock(work.turn);
  for (Worker& worker : work.workers) {
    worker.image.at_least(work.kernel.image_bytes(work.model, regions));
    worker.captions.at_least(kFewCaptions * work.kernel.caption_bytes(work.model, words));
    worker.scratch.at_least(work.kernel.scratch_bytes(work.model, regions, words));
    worker.packed = static_cast<std::size_t>(-1);
  }
  if (number_of_images == 1) {
    work.score_one_image(images[0], captions, number_of_captions, words, scores);
    return;
  }
  const std::size_t run =
      std::clamp<std::size_t>(kCaptionBytes / work.kernel.caption_bytes(work.model, words), 1, number_of_captions);
  work.packed_bytes.at_least(run * work.kernel.caption_bytes(work.model, words));
  work.packed.reserve(run);
  for (std::size_t first = 0; first < number_of_captions; first += run) {
    const std::size_t number = std::min(run, number_of_captions - first);
    work.pack(captions + first, number);
    work.score_packed(images, number_of_images, number_of_captions, scores + first);
  }
}

/// No other thread needs the packed captions: each keeps its own in its caches, and prefetches the next ones.
void Scorer::Work::score_one_image(const State& image, const State* captions, std::size_t number, std::size_t words,
                                   float* scores) {
  const std::size_t caption_bytes = kernel.caption_bytes(model, words);
  const std::size_t few = std::clamp<std::size_t>(number / pool.size(), 1, kFewCaptions);
  const auto end_of = [&](std::size_t task) { return std::min(number, (task + 1) * few); };
  pool.run((number + few - 1) / few, [&](std::size_t index, std::size_t task) {
    Worker& worker = workers[index];
    std::byte* at = worker.image.at_least(0);
    if (worker.packed != 0) kernel.pack_image(model, image, at);
    worker.packed = 0;
    const std::size_t first = task * few;
    Packed some[kFewCaptions];
    for (std::size_t i = first; i < end_of(task); ++i) {
      std::byte* to = worker.captions.at_least(0) + (i - first) * caption_bytes;
      kernel.pack_caption(model, captions[i], to);
      some[i - first] = {to, captions[i].length};
    }
    // Captions of a call are mostly adjacent in memory; prefetching something else is useless but harmless.
    const std::size_t after = task + pool.size();
    Upcoming next;
    if (after * few < number) next.at = captions[after * few].rows;
    for (std::size_t i = after * few; i < end_of(after); ++i) next.bytes += bytes_of_caption(captions[i]);
    kernel.score(model, {at, image.length}, some, end_of(task) - first, worker.scratch.at_least(0), scores + first,
                 next);
  });
}

void Scorer::Work::pack(const State* from, std::size_t number) {
  packed.clear();
  std::byte* at = packed_bytes.at_least(0);
  for (std::size_t i = 0; i < number; ++i) {
    packed.push_back({at, from[i].length});
    at += kernel.caption_bytes(model, from[i].length);
  }
  pool.run(number, [&](std::size_t, std::size_t i) {
    kernel.pack_caption(model, from[i], const_cast<std::byte*>(packed[i].data));
  });
}

/// One image and a part of the packed captions at a time: all captions, unless there are too few images for the
/// threads.
void Scorer::Work::score_packed(const State* images, std::size_t number, std::size_t stride, float* scores) {
  const std::size_t all = packed.size();
  const std::size_t wanted = 4 * pool.size();
  const std::size_t parts = std::min(all, std::max<std::size_t>(1, (wanted + number - 1) / number));
  const std::size_t part = (all + parts - 1) / parts;
  pool.run(number * parts, [&](std::size_t index, std::size_t task) {
    Worker& worker = workers[index];
    const std::size_t image = task / parts;
    const std::size_t first = task % parts * part;
    if (first >= all) return;
    std::byte* at = worker.image.at_least(0);
    if (worker.packed != image) kernel.pack_image(model, images[image], at);
    worker.packed = image;
    // Threads of equal speed take tasks alternately.
    const std::size_t after = (task + pool.size()) / parts;
    Upcoming next;
    if (after != image && after < number) next = {images[after].rows, bytes_of_image(images[after])};
    kernel.score(model, {at, images[image].length}, packed.data() + first, std::min(part, all - first),
                 worker.scratch.at_least(0), scores + image * stride + first, next);
  });
}

}  // namespace caan::kernels
