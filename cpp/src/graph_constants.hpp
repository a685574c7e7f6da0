/// Scalar constants of an ONNX graph, read without a library for it.
#pragma once

#include <optional>
#include <set>
#include <string_view>

namespace caan::detail {

/// The float32 initializers of a graph that are one number; nothing for what is not such a file.
std::optional<std::set<float>> float_scalars(std::string_view content);

} // namespace caan::detail
