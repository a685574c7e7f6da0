#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "limits.hpp"
#include "scorer.hpp"
#include "sketches.hpp"

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
std::string shape_of(const std::vector<std::size_t>& shape) {
  std::string result = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) result += (i ? ", " : "") + std::to_string(shape[i]);
  return result + (shape.size() == 1 ? ",)" : ")");
}
template <class AnyArray>
std::string shape_of(const AnyArray& array) {
  std::vector<std::size_t> shape;
  for (std::size_t i = 0; i < array.ndim(); ++i) shape.push_back(array.shape(i));
  return shape_of(shape);
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

/// A writable array of this shape; `because`: what makes the shape.
template <class T>
void check_output(const WritableArray& array, const std::string& name, const std::vector<std::size_t>& shape,
                  const char* words, const char* because) {
  check(array, name, shape.size(), words, array.dtype() == nb::dtype<T>(), name_of(nb::dtype<T>()).c_str());
  if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0) {
    throw nb::type_error((name + " must be aligned").c_str());
  }
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (array.shape(i) == shape[i]) continue;
    throw nb::value_error(
        (name + " has the shape " + shape_of(array) + ", and " + because + " " + shape_of(shape)).c_str());
  }
}

/// A NumPy array, to be filled and then released to Python.
template <class T>
class NewArray {
 public:
  explicit NewArray(std::vector<std::size_t> shape) : shape_(std::move(shape)) {
    std::size_t size = 1;
    for (const std::size_t length : shape_) {
      if (length > 0 && size > kMostNumbers / length) throw std::bad_alloc();
      size *= length;
    }
    data_.reset(new T[size]());
  }
  T* data() { return data_.get(); }
  nb::object release() {
    T* data = data_.release();
    const nb::capsule owner(data, [](void* memory) noexcept { delete[] static_cast<T*>(memory); });
    return nb::ndarray<nb::numpy, T>(data, shape_.size(), shape_.data(), owner).cast();
  }
  void shorten(std::size_t axis, std::size_t length) { shape_[axis] = length; }

 private:
  static constexpr std::size_t kMostNumbers = std::size_t{1} << 60;
  std::vector<std::size_t> shape_;
  std::unique_ptr<T[]> data_;
};

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
    const auto images = images_of(image_states, image_starts, image_lengths);
    const auto captions = captions_of(text_states, text_starts, text_lengths);
    check_output<float>(scores, "scores", {images.size(), captions.size()}, "(images, captions)",
                        "these images and captions make");
    const nb::gil_scoped_release free;
    scorer_.score(images.data(), images.size(), captions.data(), captions.size(), static_cast<float*>(scores.data()));
  }

  nb::tuple attend(const Array& image_states, const Array& image_starts, const Array& image_lengths,
                   const Array& text_states, const Array& text_starts, const Array& text_lengths) {
    const auto images = images_of(image_states, image_starts, image_lengths);
    const auto captions = captions_of(text_states, text_starts, text_lengths);
    NewArray<float> av({images.size(), captions.size(), longest(images)});
    NewArray<float> au({images.size(), captions.size(), longest(captions)});
    {
      const nb::gil_scoped_release free;
      scorer_.attend(images.data(), images.size(), captions.data(), captions.size(), av.data(), au.data());
    }
    return nb::make_tuple(av.release(), au.release());
  }

  nb::object pool_images(const Array& image_states, const Array& image_starts, const Array& image_lengths,
                         const Array& text_states, const Array& text_starts, const Array& text_lengths) {
    const auto images = images_of(image_states, image_starts, image_lengths);
    const auto captions = captions_of(text_states, text_starts, text_lengths);
    NewArray<float> pooled({images.size(), embed_dim_});
    {
      const nb::gil_scoped_release free;
      scorer_.pool_images(images.data(), images.size(), captions.data(), captions.size(), pooled.data());
    }
    return pooled.release();
  }

  nb::object pool_captions(const Array& text_states, const Array& text_starts, const Array& text_lengths,
                           const Array& image_states, const Array& image_starts, const Array& image_lengths) {
    const auto captions = captions_of(text_states, text_starts, text_lengths);
    const auto images = images_of(image_states, image_starts, image_lengths);
    NewArray<float> pooled({captions.size(), embed_dim_});
    {
      const nb::gil_scoped_release free;
      scorer_.pool_captions(captions.data(), captions.size(), images.data(), images.size(), pooled.data());
    }
    return pooled.release();
  }

  std::string instruction_set() const { return scorer_.instruction_set(); }

 private:
  std::vector<kernels::State> images_of(const Array& states, const Array& starts, const Array& lengths) const {
    return items(states, starts, lengths, "image", 2 * embed_dim_ + 3 * attention_dim_, "2D + 3d",
                 kernels::kImageMatrices);
  }
  std::vector<kernels::State> captions_of(const Array& states, const Array& starts, const Array& lengths) const {
    return items(states, starts, lengths, "text", embed_dim_ + 3 * attention_dim_, "D + 3d", kernels::kCaptionMatrices);
  }
  static std::size_t longest(const std::vector<kernels::State>& states) {
    std::size_t length = 0;
    for (const kernels::State& state : states) length = std::max(length, state.length);
    return length;
  }
  static kernels::Precision named(const std::string& precision) {
    if (precision == "fp32") return kernels::Precision::kFloat32;
    if (precision == "bf16") return kernels::Precision::kBFloat16;
    throw nb::value_error(("precision must be 'fp32' or 'bf16', not '" + precision + "'").c_str());
  }

  std::size_t embed_dim_, attention_dim_;
  kernels::Scorer scorer_;
};

/// An aligned copy of an array at any address.
std::vector<float> floats(const Array& array, const std::string& name, std::size_t dimensions, const char* shape) {
  check(array, name, dimensions, shape, array.dtype() == nb::dtype<float>(), "float32");
  std::vector<float> result(array.size());
  if (!result.empty()) std::memcpy(result.data(), array.data(), result.size() * sizeof(float));
  return result;
}

nb::object project(const Array& pooled, const Array& matrix) {
  const std::vector<float> rows = floats(pooled, "pooled", 2, "(items, dim)");
  const std::vector<float> factors = floats(matrix, "matrix", 2, "(dim, columns)");
  if (pooled.shape(1) != matrix.shape(0)) {
    throw nb::value_error(("pooled has " + std::to_string(pooled.shape(1)) + " columns, and matrix has " +
                           std::to_string(matrix.shape(0)) + " rows")
                              .c_str());
  }
  const std::size_t items = pooled.shape(0), dim = matrix.shape(0), columns = matrix.shape(1);
  NewArray<float> projected({items, columns});
  {
    const nb::gil_scoped_release free;
    kernels::project(rows.data(), factors.data(), items, dim, columns, projected.data());
  }
  return projected.release();
}

nb::object quantize(const Array& projected, const Array& steps) {
  const std::vector<float> numbers = floats(projected, "projected", 2, "(items, columns)");
  const std::vector<float> units = floats(steps, "steps", 1, "(columns,)");
  if (projected.shape(1) != steps.shape(0)) {
    throw nb::value_error(("projected has " + std::to_string(projected.shape(1)) + " columns, and steps has " +
                           std::to_string(steps.shape(0)) + " numbers")
                              .c_str());
  }
  const std::size_t items = projected.shape(0), columns = steps.shape(0);
  for (const float step : units) {
    if (!(step > 0 && std::isfinite(step))) throw nb::value_error("steps must be finite and above 0");
  }
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (!std::isnan(numbers[i])) continue;
    throw nb::value_error(("projected has NaN in row " + std::to_string(i / columns)).c_str());
  }
  NewArray<std::int8_t> sketches({items, columns});
  kernels::quantize(numbers.data(), units.data(), items, columns, sketches.data());
  return sketches.release();
}

/// `kernels::Scanner` on arrays.
class Scanner {
 public:
  explicit Scanner(std::size_t threads) : scanner_(threads) {}

  nb::tuple best(const Array& sketches, const Array& queries, std::size_t number, const std::optional<Array>& skip) {
    check(sketches, "sketches", 2, "(items, columns)", sketches.dtype() == nb::dtype<std::int8_t>(), "int8");
    check(queries, "queries", 2, "(queries, columns)", queries.dtype() == nb::dtype<std::int16_t>(), "int16");
    const std::size_t items = sketches.shape(0), columns = sketches.shape(1), asked = queries.shape(0);
    if (queries.shape(1) != columns) {
      throw nb::value_error(("queries have " + std::to_string(queries.shape(1)) + " columns, and sketches have " +
                             std::to_string(columns))
                                .c_str());
    }
    const std::uint8_t* skipped = skip ? skipped_of(*skip, items) : nullptr;
    const auto* numbers = static_cast<const std::byte*>(queries.data());
    std::vector<std::int16_t> aligned(queries.size());
    if (!aligned.empty()) std::memcpy(aligned.data(), numbers, aligned.size() * sizeof aligned[0]);
    for (const std::int16_t number_of_query : aligned) {
      if (number_of_query == -32768) throw nb::value_error("queries must be -32,767 to 32,767");
    }
    const std::size_t most = std::min(number, items);
    NewArray<std::int64_t> indices({asked, most});
    NewArray<std::int32_t> sums({asked, most});
    std::size_t found = 0;
    {
      const nb::gil_scoped_release free;
      found = scanner_.best(static_cast<const std::int8_t*>(sketches.data()), items, columns, aligned.data(), asked,
                            skipped, number, indices.data(), sums.data());
    }
    indices.shorten(1, found);
    sums.shorten(1, found);
    return nb::make_tuple(indices.release(), sums.release());
  }

 private:
  static const std::uint8_t* skipped_of(const Array& skip, std::size_t items) {
    check(skip, "skip", 1, "(items,)", skip.dtype() == nb::dtype<bool>() || skip.dtype() == nb::dtype<std::uint8_t>(),
          "bool or uint8");
    if (skip.shape(0) != items) {
      throw nb::value_error(("skip has " + std::to_string(skip.shape(0)) + " numbers, and there are " +
                             std::to_string(items) + " sketches")
                                .c_str());
    }
    return static_cast<const std::uint8_t*>(skip.data());
  }

  kernels::Scanner scanner_;
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
      .def("attend", &Scorer::attend, nb::arg("image_states").noconvert(), nb::arg("image_starts").noconvert(),
           nb::arg("image_lengths").noconvert(), nb::arg("text_states").noconvert(), nb::arg("text_starts").noconvert(),
           nb::arg("text_lengths").noconvert())
      .def("pool_images", &Scorer::pool_images, nb::arg("image_states").noconvert(),
           nb::arg("image_starts").noconvert(), nb::arg("image_lengths").noconvert(),
           nb::arg("text_states").noconvert(), nb::arg("text_starts").noconvert(), nb::arg("text_lengths").noconvert())
      .def("pool_captions", &Scorer::pool_captions, nb::arg("text_states").noconvert(),
           nb::arg("text_starts").noconvert(), nb::arg("text_lengths").noconvert(), nb::arg("image_states").noconvert(),
           nb::arg("image_starts").noconvert(), nb::arg("image_lengths").noconvert())
      .def_prop_ro("instruction_set", &Scorer::instruction_set);
  nb::class_<Scanner>(module, "Scanner")
      .def(nb::init<std::size_t>(), nb::arg("threads"))
      .def("best", &Scanner::best, nb::arg("sketches").noconvert(), nb::arg("queries").noconvert(), nb::arg("n"),
           nb::arg("skip").noconvert().none() = nb::none());
  module.def("project", &project, nb::arg("pooled").noconvert(), nb::arg("matrix").noconvert());
  module.def("quantize", &quantize, nb::arg("projected").noconvert(), nb::arg("steps").noconvert());
  module.def("has_native_bfloat16", &kernels::has_native_bfloat16);
  module.def("measure_limits", &measure_limits, nb::arg("threads"));
}
