#include "kernel.hpp"

#include <algorithm>
#include <cmath>

#include "targets.hpp"

// This file is compiled once per instruction set, each time in its own namespace.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernel.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "layout-inl.hpp"
#include "pair-inl.hpp"
#include "pool-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {

template <class F>
struct Functions {
  static std::size_t image_bytes(const Model& model, std::size_t regions) {
    return Image<F>(model, nullptr, regions).arena.used();
  }
  static std::size_t caption_bytes(const Model& model, std::size_t words) {
    return Caption<F>(model, nullptr, words).arena.used();
  }
  static std::size_t scratch_bytes(const Model& model, std::size_t regions, std::size_t words) {
    return Scratch<F>(model, nullptr, regions, words).arena.used();
  }
  static void pack_image(const Model& model, const State& state, std::byte* packed) {
    switch (state.type) {
      case StateType::kFloat32:
        return pack_image_of<F, float>(model, state, packed);
      case StateType::kFloat16:
        return pack_image_of<F, hwy::float16_t>(model, state, packed);
      case StateType::kBFloat16:
        return pack_image_of<F, hwy::bfloat16_t>(model, state, packed);
      case StateType::kInt8:
        return pack_image_of<F, std::int8_t>(model, state, packed);
    }
  }
  static void pack_caption(const Model& model, const State& state, std::byte* packed) {
    switch (state.type) {
      case StateType::kFloat32:
        return pack_caption_of<F, float>(model, state, packed);
      case StateType::kFloat16:
        return pack_caption_of<F, hwy::float16_t>(model, state, packed);
      case StateType::kBFloat16:
        return pack_caption_of<F, hwy::bfloat16_t>(model, state, packed);
      case StateType::kInt8:
        return pack_caption_of<F, std::int8_t>(model, state, packed);
    }
  }
  static void score(const Model& model, const Packed& image, const Packed* captions, std::size_t number,
                    std::byte* scratch, float* scores, const Upcoming& next) {
    each_group(model, image, captions, number, next,
               [&](const Image<F>& view, std::size_t first, std::size_t members, const Ahead& ahead) HWY_ATTR {
                 score_group<F, ForScores>(model, view, image.length, captions + first, members, scratch, {},
                                           scores + first, ahead);
               });
  }
  static void attend(const Model& model, const Packed& image, const Packed* captions, std::size_t number,
                     std::byte* scratch, const Weights& weights, const Upcoming& next) {
    each_group(model, image, captions, number, next,
               [&](const Image<F>& view, std::size_t first, std::size_t members, const Ahead& ahead) HWY_ATTR {
                 const Weights group{weights.av ? weights.av + first * weights.av_stride : nullptr, weights.av_stride,
                                     weights.au ? weights.au + first * weights.au_stride : nullptr, weights.au_stride};
                 attend_group(model, view, image.length, captions + first, members, scratch, group, ahead);
               });
  }
  static void attend_group(const Model& model, const Image<F>& image, std::size_t regions, const Packed* captions,
                           std::size_t number, std::byte* scratch, const Weights& weights, const Ahead& ahead) {
    if (weights.au == nullptr) {
      return score_group<F, ForRegions>(model, image, regions, captions, number, scratch, weights, nullptr, ahead);
    }
    if (weights.av == nullptr) {
      return score_group<F, ForWords>(model, image, regions, captions, number, scratch, weights, nullptr, ahead);
    }
    float scores[kGroup];
    score_group<F, ForScores>(model, image, regions, captions, number, scratch, weights, scores, ahead);
    for (std::size_t i = 0; i < number; ++i) {
      if (!std::isnan(scores[i])) continue;
      std::fill_n(weights.av + i * weights.av_stride, regions, scores[i]);
      std::fill_n(weights.au + i * weights.au_stride, captions[i].length, scores[i]);
    }
  }
  template <class Use>
  static void each_group(const Model& model, const Packed& image, const Packed* captions, std::size_t number,
                         const Upcoming& next, const Use& use) {
    const Image<F> view(model, const_cast<std::byte*>(image.data), image.length);
    for (std::size_t i = 0; i < number; i += kGroup) {
      const std::size_t members = HWY_MIN(kGroup, number - i);
      Ahead ahead{};
      // Fetched earlier, it would be evicted again by the captions in between.
      if (i + kGroup >= number && next.bytes > 0)
        ahead = fetched_during(model, next, image.length, captions + i, members);
      use(view, i, members, ahead);
    }
  }
  static Ahead fetched_during(const Model& model, const Upcoming& next, std::size_t regions, const Packed* captions,
                              std::size_t number) {
    std::size_t steps = 0;
    for (std::size_t i = 0; i < number; ++i) steps += steps_of<F>(model, regions, captions[i].length);
    const auto at = static_cast<const char*>(next.at);
    return {at, at + next.bytes, next.bytes / steps + 1};
  }
  static Kernel table() {
    return {hwy::TargetName(HWY_TARGET),
            image_bytes,
            caption_bytes,
            scratch_bytes,
            pack_image,
            pack_caption,
            score,
            attend,
            pool_state};
  }
};

Kernel make_kernel(bool bfloat16) { return bfloat16 ? Functions<BFloat16>::table() : Functions<Float32>::table(); }

bool native_bfloat16() { return HWY_NATIVE_DOT_BF16; }

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace caan::kernels {
HWY_EXPORT(make_kernel);
HWY_EXPORT(native_bfloat16);

Kernel find_kernel(bool bfloat16) { return HWY_DYNAMIC_DISPATCH(make_kernel)(bfloat16); }

bool has_native_bfloat16() { return HWY_DYNAMIC_DISPATCH(native_bfloat16)(); }

}  // namespace caan::kernels
#endif
