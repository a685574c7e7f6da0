/// Images × captions on the kernel of backend `native`, which reads states in place.
#pragma once

#include "scoring.hpp"

namespace caan::detail {

/// `score_stream` for a backend with a kernel. Neither side may be empty.
/// expanded_bytes: memory for a compact gallery's recomputed states of one call; 0: 16 MiB.
void score_natively(const Backend& backend, std::size_t expanded_bytes, const Gallery::Content& images,
                    const Texts& texts, Spaces& spaces, const Take& take, const Chosen& chosen = {});

} // namespace caan::detail
