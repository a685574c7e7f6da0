/// From a gallery's states to the scorer's: small types widened, a compact gallery's columns recomputed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend.hpp"
#include "buffers.hpp"
#include "gallery.hpp"

namespace caan::detail {

/// States of items (n), indices into a gallery, in the backend's state type, padded with zeros to the longest. In
/// `space`, or a view of the gallery if it holds just that. Throws BundleError if the states on disk are not as
/// written.
Padded gather_states(const Backend& backend, const Gallery::Content& gallery, const std::int64_t* items, std::size_t n,
                     Workspace& space);

/// How a gallery stores this type.
kernels::StateType stored_type(Dtype type) noexcept;

/// Converts between the two state types, or copies; overflow to float16 gives infinity.
void convert(const void* from, Dtype from_type, void* to, Dtype to_type, std::size_t values);

/// Whether all of these values are finite.
bool all_finite(const void* values, Dtype type, std::size_t count);

} // namespace caan::detail
