/// Checks an ONNX file's bytes as graphs.py does: ONNX Runtime only receives graphs of the kind caan exports.
#pragma once

#include <string>
#include <string_view>

#include "bundle.hpp"

namespace caan::detail {

inline constexpr const char* EXPANDER = "expander";

/// Throws BundleError, naming the problem, for a graph that caan does not export: external data, operators that ONNX
/// doesn't define, loops, branches, functions, or unexpected inputs and outputs. name: one of GRAPHS, or EXPANDER;
/// folder: the bundle that these sizes belong to; path: for messages.
void check_graph(const std::string& folder, const Sizes& sizes, const std::string& name, const std::string& path,
                 std::string_view content);

} // namespace caan::detail
