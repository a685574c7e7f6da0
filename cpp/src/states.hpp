/// From what a gallery holds to what a scorer takes: half precision widened, left-out columns computed again.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend.hpp"
#include "buffers.hpp"
#include "gallery.hpp"

namespace caan::detail {

/// States of items (n), indices into a gallery, in the backend's state type, padded with zeros to the longest. They
/// lie in `space`, or where the gallery holds just that. Throws BundleError if what lies on disk is not what was
/// written.
Padded gather_states(const Backend& backend, const Gallery::Content& gallery, const std::int64_t* items, std::size_t n,
                     Workspace& space);

/// Values of one of the two state types to the other, or as they are; beyond float16 is infinity.
void convert(const void* from, Dtype from_type, void* to, Dtype to_type, std::size_t values);

/// Whether none of these values is NaN or infinity.
bool all_finite(const void* values, Dtype type, std::size_t count);

} // namespace caan::detail
