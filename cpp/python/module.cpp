#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "scorer.hpp"

namespace nb = nanobind;
namespace kernels = caan::kernels;

namespace {

using States = nb::ndarray<nb::ro, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Lengths = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Scores = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

/// Where each item's rows lie; `width`: the columns that a state must have.
std::vector<kernels::State> items(const States& states, const Lengths& lengths, std::size_t width, const char* name) {
  const bool half = states.dtype() == nb::dlpack::dtype{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
  if (!half && states.dtype() != nb::dtype<float>()) {
    throw nb::type_error((std::string(name) + " must be float32 or float16").c_str());
  }
  if (states.shape(2) != width || lengths.shape(0) != states.shape(0)) {
    throw nb::value_error((std::string(name) + " do not fit the model or their lengths").c_str());
  }
  const std::size_t bytes = states.shape(1) * width * (half ? 2 : 4);
  const auto* data = static_cast<const std::byte*>(states.data());
  std::vector<kernels::State> result;
  result.reserve(states.shape(0));
  for (std::size_t i = 0; i < states.shape(0); ++i) {
    const std::int64_t length = lengths(i);
    if (length < 1 || static_cast<std::uint64_t>(length) > states.shape(1)) {
      throw nb::value_error((std::string(name) + ": length " + std::to_string(length) + " of item " +
                             std::to_string(i) + " is not in 1.." + std::to_string(states.shape(1)))
                                .c_str());
    }
    result.push_back({data + i * bytes, static_cast<std::size_t>(length), half});
  }
  return result;
}

/// `kernels::Scorer` on arrays.
class Scorer {
 public:
  Scorer(std::size_t embed_dim, std::size_t attention_dim, float attention_scale, const Weights& w_v,
         const Weights& w_u, const std::string& precision, std::size_t threads)
      : embed_dim_(embed_dim), attention_dim_(attention_dim), scorer_(make(attention_scale, w_v, w_u, precision, threads)) {}

  void score(const States& image_states, const Lengths& image_lengths, const States& text_states,
             const Lengths& text_lengths, const Scores& scores) {
    const auto images = items(image_states, image_lengths, 2 * embed_dim_ + 3 * attention_dim_, "image_states");
    const auto captions = items(text_states, text_lengths, embed_dim_ + 3 * attention_dim_, "text_states");
    if (scores.shape(0) != images.size() || scores.shape(1) != captions.size()) {
      throw nb::value_error("scores must have a row per image and a column per caption");
    }
    const nb::gil_scoped_release free;
    scorer_.score(images.data(), images.size(), captions.data(), captions.size(), scores.data());
  }

  std::string instruction_set() const { return scorer_.instruction_set(); }

 private:
  kernels::Scorer make(float attention_scale, const Weights& w_v, const Weights& w_u, const std::string& precision,
                       std::size_t threads) const {
    if (w_v.shape(0) != attention_dim_ || w_u.shape(0) != attention_dim_) {
      throw nb::value_error("w_v and w_u must have attention_dim numbers");
    }
    if (precision != "fp32" && precision != "bf16") throw nb::value_error("precision must be 'fp32' or 'bf16'");
    return kernels::Scorer({embed_dim_, attention_dim_, attention_scale, w_v.data(), w_u.data()},
                           precision == "bf16" ? kernels::Precision::kBFloat16 : kernels::Precision::kFloat32, threads);
  }

  std::size_t embed_dim_, attention_dim_;
  kernels::Scorer scorer_;
};

}  // namespace

NB_MODULE(_native, module) {
  nb::class_<Scorer>(module, "Scorer")
      .def(nb::init<std::size_t, std::size_t, float, const Weights&, const Weights&, const std::string&, std::size_t>(),
           nb::arg("embed_dim"), nb::arg("attention_dim"), nb::arg("attention_scale"), nb::arg("w_v").noconvert(),
           nb::arg("w_u").noconvert(), nb::arg("precision"), nb::arg("threads"))
      .def("score", &Scorer::score, nb::arg("image_states").noconvert(), nb::arg("image_lengths").noconvert(),
           nb::arg("text_states").noconvert(), nb::arg("text_lengths").noconvert(), nb::arg("scores").noconvert())
      .def_prop_ro("instruction_set", &Scorer::instruction_set);
  module.def("has_native_bfloat16", &kernels::has_native_bfloat16);
}
