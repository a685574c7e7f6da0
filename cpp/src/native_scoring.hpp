/// Images × captions on the kernel of backend `native`: states are scored where they lie.
#pragma once

#include "scoring.hpp"

namespace caan::detail {

/// As `score_stream`, for a backend with a kernel. Neither side may be empty.
/// expanded_bytes: for states of a compact gallery that are computed again for one call; 0: 16 MiB.
void score_natively(const Backend& backend, std::size_t expanded_bytes, const Gallery::Content& images,
                    const Texts& texts, Spaces& spaces, const Take& take);

} // namespace caan::detail
