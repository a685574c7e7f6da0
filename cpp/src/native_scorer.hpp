/// Backend `native`: the scorer of cpp/kernels with a bundle's parameters.
#pragma once

#include <memory>
#include <string>

#include <caan/caan.hpp>
#include <scorer.hpp>

#include "bundle.hpp"

namespace caan::detail {

/// The precision of the encoders' graphs: in bf16 only the scorer rounds.
std::string graph_precision(const std::string& precision);

/// Throws InputError for a precision or device that the kernel does not support, MissingError for bf16 on a processor
/// without bfloat16 instructions.
void check_native(const Options& options);

/// Whether the kernel can score this precision of the bundle.
bool has_native(const Bundle& bundle, const std::string& precision);

/// The kernel with the bundle's w_v, w_u and λ. Throws BundleError for an older bundle without them, or if they are
/// invalid.
std::unique_ptr<kernels::Scorer> native_scorer(const Bundle& bundle, const std::string& precision, int threads);

} // namespace caan::detail
