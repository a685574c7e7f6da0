#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "limits.hpp"
#include "scorer.hpp"

namespace nb = nanobind;
namespace kernels = caan::kernels;

namespace {

// Any array in host memory; everything else is checked here, for clear messages.
using Array = nb::ndarray<nb::ro, nb::device::cpu>;
using WritableArray = nb::ndarray<nb::device::cpu>;

std::string name_of(nb::dlpack::dtype type) {
  const char* kinds[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  return (type.code < 7 ? kinds[type.code] : "unknown") + std::to_string(type.bits);
}

/// "(2, 3)"
template <class AnyArray>
std::string shape_of(const AnyArray& array) {
  std::string result = "(";
  for (std::size_t i = 0; i < array.ndim(); ++i) result += (i ? ", " : "") + std::to_string(array.shape(i));
  return result + (array.ndim() == 1 ? ",)" : ")");
}

template <class AnyArray>
bool is_contiguous(const AnyArray& array) {
  std::int64_t step = 1;
  for (std::size_t i = array.ndim(); i-- > 0;) {
    // The stride of a dimension of size 1 or of an empty array does not matter.
    if (array.shape(i) > 1 && array.stride(i) != step && array.size() > 0) return false;
    step *= static_cast<std::int64_t>(array.shape(i));
  }
  return true;
}

/// `shape`: in words; its number of dimensions is `dimensions`.
template <class AnyArray>
void check(const AnyArray& array, const std::string& name, std::size_t dimensions, const char* shape, bool right_type,
           const char* types) {
  if (!right_type) throw nb::type_error((name + " must be " + types + ", not " + name_of(array.dtype())).c_str());
  if (array.ndim() != dimensions) {
    throw nb::value_error((name + " must have the shape " + shape + ", not " + shape_of(array)).c_str());
  }
  if (!is_contiguous(array)) {
    throw nb::type_error((name + " must be C-contiguous; numpy.ascontiguousarray makes it so").c_str());
  }
}

/// A model's w_v or w_u.
const float* weights(const Array& array, const char* name, std::size_t attention_dim) {
  check(array, name, 1, "(attention_dim,)", array.dtype() == nb::dtype<float>(), "float32");
  if (array.shape(0) != attention_dim) {
    throw nb::value_error((std::string(name) + " has " + std::to_string(array.shape(0)) +
                           " numbers, and attention_dim is " + std::to_string(attention_dim))
                              .c_str());
  }
  return static_cast<const float*>(array.data());
}

/// One value per item, from an array of any alignment.
std::vector<std::int64_t> numbers(const Array& array, const std::string& name) {
  check(array, name, 1, "(items,)", array.dtype() == nb::dtype<std::int64_t>(), "int64");
  std::vector<std::int64_t> result(array.shape(0));
  if (!result.empty()) std::memcpy(result.data(), array.data(), result.size() * sizeof result[0]);
  return result;
}

/// float32; float16; the bits of bfloat16 as uint16; rows of scales and int8 as uint8.
std::optional<kernels::StateType> state_type(nb::dlpack::dtype type) {
  if (type == nb::dtype<float>()) return kernels::StateType::kFloat32;
  if (type == nb::dlpack::dtype{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1}) {
    return kernels::StateType::kFloat16;
  }
  if (type == nb::dtype<std::uint16_t>()) return kernels::StateType::kBFloat16;
  if (type == nb::dtype<std::uint8_t>()) return kernels::StateType::kInt8;
  return std::nullopt;
}

/// The rows of each item; `kind`: "image" or "text"; `width`: a state's columns, `formula`: the same as text;
/// `matrices`: of a state.
std::vector<kernels::State> items(const Array& states, const Array& starts, const Array& lengths,
                                  const std::string& kind, std::size_t width, const char* formula,
                                  std::size_t matrices) {
  const std::string name = kind + "_states";
  const std::optional<kernels::StateType> type = state_type(states.dtype());
  check(states, name, 2, (std::string("(rows, ") + formula + ")").c_str(), type.has_value(),
        "float32, float16, uint16 (bfloat16) or uint8 (int8 with scales)");
  const bool is_int8 = *type == kernels::StateType::kInt8;
  const std::size_t row_bytes = kernels::row_bytes(*type, width, matrices), columns = is_int8 ? row_bytes : width;
  if (states.shape(1) != columns) {
    throw nb::value_error((name + " have " + std::to_string(states.shape(1)) + " columns, and the model's " + formula +
                           (is_int8 ? " + " + std::to_string(matrices * sizeof(float)) : "") + " = " +
                           std::to_string(columns))
                              .c_str());
  }
  const std::vector<std::int64_t> first = numbers(starts, kind + "_starts"), many = numbers(lengths, kind + "_lengths");
  if (first.size() != many.size()) {
    throw nb::value_error((kind + "_starts has " + std::to_string(first.size()) + " numbers, and " + kind +
                           "_lengths has " + std::to_string(many.size()))
                              .c_str());
  }
  const auto rows = static_cast<std::int64_t>(states.shape(0));
  const auto* data = static_cast<const std::byte*>(states.data());
  std::vector<kernels::State> result;
  result.reserve(first.size());
  for (std::size_t i = 0; i < first.size(); ++i) {
    // Neither sum nor difference overflows 64 bits.
    if (many[i] < 1 || first[i] < 0 || first[i] > rows || many[i] > rows - first[i]) {
      throw nb::value_error((kind + " " + std::to_string(i) + " has length " + std::to_string(many[i]) + " from row " +
                             std::to_string(first[i]) + " on, and " + name + " has the rows 0.." +
                             std::to_string(rows - 1))
                                .c_str());
    }
    const std::size_t offset = static_cast<std::size_t>(first[i]) * row_bytes;
    result.push_back({data + offset, static_cast<std::size_t>(many[i]), *type});
  }
  return result;
}

/// `kernels::Scorer` on arrays.
class Scorer {
 public:
  Scorer(std::size_t embed_dim, std::size_t attention_dim, float attention_scale, const Array& w_v, const Array& w_u,
         const std::string& precision, std::size_t threads)
      : embed_dim_(embed_dim),
        attention_dim_(attention_dim),
        scorer_({embed_dim, attention_dim, attention_scale, weights(w_v, "w_v", attention_dim),
                 weights(w_u, "w_u", attention_dim)},
                named(precision), threads) {}

  void score(const Array& image_states, const Array& image_starts, const Array& image_lengths, const Array& text_states,
             const Array& text_starts, const Array& text_lengths, const WritableArray& scores) {
    const std::size_t of_image = 2 * embed_dim_ + 3 * attention_dim_, of_text = embed_dim_ + 3 * attention_dim_;
    const auto images =
        items(image_states, image_starts, image_lengths, "image", of_image, "2D + 3d", kernels::kImageMatrices);
    const auto captions =
        items(text_states, text_starts, text_lengths, "text", of_text, "D + 3d", kernels::kCaptionMatrices);
    check(scores, "scores", 2, "(images, captions)", scores.dtype() == nb::dtype<float>(), "float32");
    if (reinterpret_cast<std::uintptr_t>(scores.data()) % alignof(float) != 0) {
      throw nb::type_error("scores must be aligned");
    }
    if (scores.shape(0) != images.size() || scores.shape(1) != captions.size()) {
      throw nb::value_error(("scores has the shape " + shape_of(scores) + ", and these images and captions make (" +
                             std::to_string(images.size()) + ", " + std::to_string(captions.size()) + ")")
                                .c_str());
    }
    const nb::gil_scoped_release free;
    scorer_.score(images.data(), images.size(), captions.data(), captions.size(), static_cast<float*>(scores.data()));
  }

  std::string instruction_set() const { return scorer_.instruction_set(); }

 private:
  static kernels::Precision named(const std::string& precision) {
    if (precision == "fp32") return kernels::Precision::kFloat32;
    if (precision == "bf16") return kernels::Precision::kBFloat16;
    throw nb::value_error(("precision must be 'fp32' or 'bf16', not '" + precision + "'").c_str());
  }

  std::size_t embed_dim_, attention_dim_;
  kernels::Scorer scorer_;
};

nb::dict measure_limits(std::size_t threads) {
  if (threads == 0 || threads > kernels::kMostThreads) throw nb::value_error("threads must be 1 to 4,096");
  kernels::Limits limits{};
  {
    const nb::gil_scoped_release free;
    limits = kernels::measure_limits(threads);
  }
  nb::dict result;
  result["fp32_flop"] = limits.float32_flop;
  result["bf16_flop"] = limits.bfloat16_flop;
  result["fp32_tanh"] = limits.float32_tanh;
  result["bf16_tanh"] = limits.bfloat16_tanh;
  return result;
}

}  // namespace

NB_MODULE(_native, module) {
  nb::class_<Scorer>(module, "Scorer")
      .def(nb::init<std::size_t, std::size_t, float, const Array&, const Array&, const std::string&, std::size_t>(),
           nb::arg("embed_dim"), nb::arg("attention_dim"), nb::arg("attention_scale"), nb::arg("w_v").noconvert(),
           nb::arg("w_u").noconvert(), nb::arg("precision"), nb::arg("threads"))
      .def("score", &Scorer::score, nb::arg("image_states").noconvert(), nb::arg("image_starts").noconvert(),
           nb::arg("image_lengths").noconvert(), nb::arg("text_states").noconvert(), nb::arg("text_starts").noconvert(),
           nb::arg("text_lengths").noconvert(), nb::arg("scores").noconvert())
      .def_prop_ro("instruction_set", &Scorer::instruction_set);
  module.def("has_native_bfloat16", &kernels::has_native_bfloat16);
  module.def("measure_limits", &measure_limits, nb::arg("threads"));
}
