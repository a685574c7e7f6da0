// The scorer's attention alone: pooling weights of pairs, and items pooled with their average weights.
#include <stdexcept>

#include "scorer_work.hpp"

namespace caan::kernels {
namespace {

/// Items whose weights are kept at a time.
constexpr std::size_t kWeightBytes = std::size_t{2} << 20;

/// The mean over `number` rows of `length` weights, a row every `stride` numbers; summed in order.
void mean(const float* weights, std::size_t number, std::size_t stride, std::size_t length, float* result) {
  std::fill_n(result, length, 0.0f);
  for (std::size_t i = 0; i < number; ++i) {
    for (std::size_t j = 0; j < length; ++j) result[j] += weights[i * stride + j];
  }
  for (std::size_t j = 0; j < length; ++j) result[j] /= static_cast<float>(number);
}

}  // namespace

void Scorer::attend(const State* images, std::size_t number_of_images, const State* captions,
                    std::size_t number_of_captions, float* av, float* au) {
  Work& work = work_.own();
  const std::size_t regions = longest(images, number_of_images, "an image");
  const std::size_t words = longest(captions, number_of_captions, "a caption");
  std::fill_n(av, number_of_images * number_of_captions * regions, 0.0f);
  std::fill_n(au, number_of_images * number_of_captions * words, 0.0f);
  const std::lock_guard<std::mutex> lock(work.turn);
  work.for_all_pairs(images, number_of_images, captions, number_of_captions,
                     [&](std::size_t image, std::size_t first, const Packed& packed, const Packed* some,
                         std::size_t number, std::byte* scratch, const Upcoming& next) {
                       const std::size_t pair = image * number_of_captions + first;
                       work.kernel.attend(work.model, packed, some, number, scratch,
                                          {av + pair * regions, regions, au + pair * words, words}, next);
                     });
}

void Scorer::pool_images(const State* images, std::size_t number_of_images, const State* captions,
                         std::size_t number_of_captions, float* pooled) {
  if (number_of_captions == 0) throw std::invalid_argument("no captions to attend to");
  Work& work = work_.own();
  const std::size_t regions = longest(images, number_of_images, "an image");
  longest(captions, number_of_captions, "a caption");
  const std::lock_guard<std::mutex> lock(work.turn);
  const std::size_t of_image = number_of_captions * regions;
  const std::size_t run = std::clamp<std::size_t>(kWeightBytes / sizeof(float) / (of_image + regions + 1), 1,
                                                  std::max<std::size_t>(1, number_of_images));
  auto* av = reinterpret_cast<float*>(work.attention.at_least(run * (of_image + regions) * sizeof(float)));
  float* means = av + run * of_image;
  for (std::size_t begin = 0; begin < number_of_images; begin += run) {
    const std::size_t number_of_them = std::min(run, number_of_images - begin);
    work.for_all_pairs(images + begin, number_of_them, captions, number_of_captions,
                       [&](std::size_t image, std::size_t first, const Packed& packed, const Packed* some,
                           std::size_t number, std::byte* scratch, const Upcoming& next) {
                         work.kernel.attend(work.model, packed, some, number, scratch,
                                            {av + image * of_image + first * regions, regions, nullptr, 0}, next);
                       });
    work.pool.run(number_of_them, [&](std::size_t, std::size_t i) {
      const State& image = images[begin + i];
      mean(av + i * of_image, number_of_captions, regions, image.length, means + i * regions);
      work.kernel.pool(image, 2 * work.model.embed_dim + 3 * work.model.attention_dim, kImageMatrices,
                       work.model.embed_dim, means + i * regions, pooled + (begin + i) * work.model.embed_dim);
    });
  }
}

void Scorer::pool_captions(const State* captions, std::size_t number_of_captions, const State* images,
                           std::size_t number_of_images, float* pooled) {
  if (number_of_images == 0) throw std::invalid_argument("no images to attend to");
  Work& work = work_.own();
  const std::size_t words = longest(captions, number_of_captions, "a caption");
  longest(images, number_of_images, "an image");
  const std::lock_guard<std::mutex> lock(work.turn);
  const std::size_t run = std::clamp<std::size_t>(kWeightBytes / sizeof(float) / ((number_of_images + 1) * words + 1),
                                                  1, std::max<std::size_t>(1, number_of_captions));
  auto* au = reinterpret_cast<float*>(work.attention.at_least(run * (number_of_images + 1) * words * sizeof(float)));
  float* means = au + run * number_of_images * words;
  for (std::size_t begin = 0; begin < number_of_captions; begin += run) {
    const std::size_t number_of_them = std::min(run, number_of_captions - begin);
    work.for_all_pairs(images, number_of_images, captions + begin, number_of_them,
                       [&](std::size_t image, std::size_t first, const Packed& packed, const Packed* some,
                           std::size_t number, std::byte* scratch, const Upcoming& next) {
                         work.kernel.attend(work.model, packed, some, number, scratch,
                                            {nullptr, 0, au + (image * number_of_them + first) * words, words}, next);
                       });
    work.pool.run(number_of_them, [&](std::size_t, std::size_t i) {
      const State& caption = captions[begin + i];
      mean(au + i * words, number_of_images, number_of_them * words, caption.length, means + i * words);
      work.kernel.pool(caption, work.model.embed_dim + 3 * work.model.attention_dim, kCaptionMatrices,
                       work.model.embed_dim, means + i * words, pooled + (begin + i) * work.model.embed_dim);
    });
  }
}

}  // namespace caan::kernels
