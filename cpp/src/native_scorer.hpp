/// Backend `native`: the scorer of cpp/kernels, with what it needs of a bundle.
#pragma once

#include <memory>
#include <string>

#include <caan/caan.hpp>
#include <scorer.hpp>

#include "bundle.hpp"

namespace caan::detail {

/// The precision of the graphs that encode for this one: in bf16 the scorer alone rounds.
std::string graph_precision(const std::string& precision);

/// Throws InputError for a precision or device that is not the kernel's, MissingError for bf16 where the processor has
/// no instructions for it.
void check_native(const Options& options);

/// Whether the kernel can score this precision of the bundle.
bool has_native(const Bundle& bundle, const std::string& precision);

/// The kernel with the bundle's w_v, w_u and λ. Throws BundleError for a bundle that was exported before it held them,
/// or that holds something else.
std::unique_ptr<kernels::Scorer> native_scorer(const Bundle& bundle, const std::string& precision, int threads);

} // namespace caan::detail
