#include "scorer.hpp"

#include <stdexcept>
#include <string>

#include "scorer_work.hpp"

namespace caan::kernels {
namespace {

constexpr const char* kTooLarge = "larger than 1,048,576";

float largest(const float* numbers, std::size_t number) {
  float result = 0;
  for (std::size_t i = 0; i < number; ++i) result = std::max(result, std::abs(numbers[i]));
  for (std::size_t i = 0; i < number; ++i) result += 0 * numbers[i];
  return result;
}

}  // namespace

std::size_t longest(const State* states, std::size_t number, const char* what) {
  std::size_t length = 0;
  for (std::size_t i = 0; i < number; ++i) {
    if (states[i].length == 0) throw std::invalid_argument(std::string(what) + " has length 0");
    if (states[i].length > kLargestSize) throw std::invalid_argument(std::string(what) + " is " + kTooLarge);
    length = std::max(length, states[i].length);
  }
  return length;
}

Scorer::Work::Work(const Parameters& parameters, const Kernel& functions, std::size_t threads)
    : kernel(functions), pool(threads), workers(threads) {
  const std::size_t padded = (parameters.attention_dim + kColumnPadding - 1) / kColumnPadding * kColumnPadding;
  auto* w = reinterpret_cast<float*>(weights.at_least(2 * padded * sizeof(float)));
  std::copy_n(parameters.w_v, parameters.attention_dim, w);
  std::copy_n(parameters.w_u, parameters.attention_dim, w + padded);
  model = {parameters.embed_dim, parameters.attention_dim, parameters.attention_scale, w,
           w + padded,           largest(w, padded),       largest(w + padded, padded)};
}

std::unique_ptr<Scorer::Work> Scorer::Work::again() const {
  const Parameters parameters{model.embed_dim, model.attention_dim, model.attention_scale, model.w_v, model.w_u};
  return std::make_unique<Work>(parameters, kernel, pool.size());
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

Scorer::Scorer(const Parameters& parameters, Precision precision, std::size_t threads) {
  if (parameters.embed_dim == 0 || parameters.attention_dim == 0) throw std::invalid_argument("a dimension is 0");
  if (parameters.embed_dim > kLargestSize || parameters.attention_dim > kLargestSize) {
    throw std::invalid_argument(std::string("a dimension is ") + kTooLarge);
  }
  if (!std::isfinite(parameters.attention_scale)) throw std::invalid_argument("attention_scale is not finite");
  check_threads(threads);
  const Kernel kernel = find_kernel(precision == Precision::kBFloat16);
  work_ = PerProcess<Work>(std::make_unique<Work>(parameters, kernel, threads));
}

void check_threads(std::size_t threads) {
  if (threads == 0) throw std::invalid_argument("no threads");
  if (threads > kMostThreads) throw std::invalid_argument("more than 4,096 threads");
}

Scorer::~Scorer() = default;
Scorer::Scorer(Scorer&& other) noexcept = default;
Scorer& Scorer::operator=(Scorer&& other) noexcept = default;

const char* Scorer::instruction_set() const { return work_.any().kernel.instruction_set; }

void Scorer::score(const State* images, std::size_t number_of_images, const State* captions,
                   std::size_t number_of_captions, float* scores) {
  Work& work = work_.own();
  const std::lock_guard<std::mutex> lock(work.turn);
  work.for_all_pairs(images, number_of_images, captions, number_of_captions,
                     [&](std::size_t image, std::size_t first, const Packed& packed, const Packed* some,
                         std::size_t number, std::byte* scratch, const Upcoming& next) {
                       work.kernel.score(work.model, packed, some, number, scratch,
                                         scores + image * number_of_captions + first, next);
                     });
}

}  // namespace caan::kernels
