/// Scalar constants of an ONNX graph, read without the onnx library.
#pragma once

#include <optional>
#include <set>
#include <string_view>

namespace caan::detail {

/// A graph's scalar float32 initializers; none if it is not an ONNX file.
std::optional<std::set<float>> float_scalars(std::string_view content);

} // namespace caan::detail
