#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <vector>

#include "buffer.hpp"
#include "scorer.hpp"
#include "thread_pool.hpp"

namespace caan::kernels {

// Packed captions stay in the shared last-level cache while image after image is scored against them.
inline constexpr std::size_t kCaptionBytes = std::size_t{8} << 20;

// Captions per step for a single image, packed just before use.
inline constexpr std::size_t kFewCaptions = 4;

/// One thread's memory, sharing no cache line with another thread.
struct alignas(kAlignment) Worker {
  Buffer image, captions, scratch;
  std::size_t packed = static_cast<std::size_t>(-1);  // the image that lies in `image`
};

/// The longest item. Throws std::invalid_argument for a length of 0 or above kLargestSize.
std::size_t longest(const State* states, std::size_t number, const char* what);

struct Scorer::Work {
  Work(const Parameters& parameters, const Kernel& functions, std::size_t threads);

  std::unique_ptr<Work> again() const;

  std::size_t bytes_of_image(const State& image) const {
    return image.length * row_bytes(image.type, 2 * model.embed_dim + 3 * model.attention_dim, kImageMatrices);
  }
  std::size_t bytes_of_caption(const State& caption) const {
    return caption.length * row_bytes(caption.type, model.embed_dim + 3 * model.attention_dim, kCaptionMatrices);
  }

  /// Calls use(image, first, packed_image, packed_captions, number, scratch, next) on the pool's threads, once for each
  /// image and each part of the captions, `first` to first + number - 1. `turn` is locked meanwhile by the caller.
  template <class Use>
  void for_all_pairs(const State* images, std::size_t number_of_images, const State* captions,
                     std::size_t number_of_captions, const Use& use);

  const Kernel kernel;
  Buffer weights, packed_bytes;
  Model model{};
  std::vector<Packed> packed;
  std::mutex turn;
  ThreadPool pool;
  std::vector<Worker> workers;
  Buffer attention;  // for pooling: weights of some items with all of the other side

 private:
  void pack(const State* captions, std::size_t number);
  template <class Use>
  void use_one_image(const State& image, const State* captions, std::size_t number, std::size_t words, const Use& use);
  template <class Use>
  void use_packed(const State* images, std::size_t number, std::size_t first_caption, const Use& use);
};

template <class Use>
void Scorer::Work::for_all_pairs(const State* images, std::size_t number_of_images, const State* captions,
                                 std::size_t number_of_captions, const Use& use) {
  const std::size_t regions = longest(images, number_of_images, "an image");
  const std::size_t words = longest(captions, number_of_captions, "a caption");
  if (regions == 0 || words == 0) return;
  for (Worker& worker : workers) {
    worker.image.at_least(kernel.image_bytes(model, regions));
    worker.captions.at_least(kFewCaptions * kernel.caption_bytes(model, words));
    worker.scratch.at_least(kernel.scratch_bytes(model, regions, words));
    worker.packed = static_cast<std::size_t>(-1);
  }
  if (number_of_images == 1) return use_one_image(images[0], captions, number_of_captions, words, use);
  const std::size_t run =
      std::clamp<std::size_t>(kCaptionBytes / kernel.caption_bytes(model, words), 1, number_of_captions);
  packed_bytes.at_least(run * kernel.caption_bytes(model, words));
  packed.reserve(run);
  for (std::size_t first = 0; first < number_of_captions; first += run) {
    pack(captions + first, std::min(run, number_of_captions - first));
    use_packed(images, number_of_images, first, use);
  }
}

/// No other thread needs the packed captions: each keeps its own in its caches, and prefetches the next ones.
template <class Use>
void Scorer::Work::use_one_image(const State& image, const State* captions, std::size_t number, std::size_t words,
                                 const Use& use) {
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
    use(0, first, Packed{at, image.length}, some, end_of(task) - first, worker.scratch.at_least(0), next);
  });
}

/// One image and a part of the packed captions at a time: all captions, unless there are too few images for the
/// threads.
template <class Use>
void Scorer::Work::use_packed(const State* images, std::size_t number, std::size_t first_caption, const Use& use) {
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
    use(image, first_caption + first, Packed{at, images[image].length}, packed.data() + first,
        std::min(part, all - first), worker.scratch.at_least(0), next);
  });
}

}  // namespace caan::kernels
