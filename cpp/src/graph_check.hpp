/// What is in an ONNX file, told from its bytes as graphs.py does: before ONNX Runtime gets one, it must be one of
/// ours.
#pragma once

#include <string>
#include <string_view>

#include "bundle.hpp"

namespace caan::detail {

inline constexpr const char* EXPANDER = "expander";

/// Throws BundleError, naming what is wrong, for a file that is not such a graph as caan exports: data in other files,
/// operators that ONNX doesn't define, loops, branches and functions, or other inputs and outputs than are fed and
/// read. name: one of GRAPHS, or EXPANDER; folder: the bundle, whose sizes these are; path: for messages.
void check_graph(const std::string& folder, const Sizes& sizes, const std::string& name, const std::string& path,
                 std::string_view content);

} // namespace caan::detail
