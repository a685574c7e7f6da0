/// Images × captions, cut into tiles and scored: the one stream that searches and score matrices drink from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <variant>

#include "backend.hpp"
#include "buffers.hpp"
#include "gallery.hpp"
#include "inputs.hpp"

namespace caan::detail {

/// Captions: encoded, or tokens that are encoded on the way.
using Texts = std::variant<const Gallery::Content*, const Tokens*>;

/// Some images (n) × some captions (m), positions, and their scores (n, m).
struct Scored {
    const std::int64_t* images;
    std::size_t n;
    const std::int64_t* captions;
    std::size_t m;
    const float* scores;
};

/// Gets each block of scores.
using Take = std::function<void(const Scored&)>;

/// How tiles are scored, by a backend that has them.
struct Choice {
    std::size_t tile_bytes; // memory for one tile's intermediates; 0: what Python takes
    int workers;            // scorer calls side by side; 0: one, or for many pairs as many as threads
};

/// Where the tiles of a call are prepared.
struct Spaces {
    Workspaces captions, tiles;
};

/// Score every image with every caption, deleted ones left out, a block at a time in no particular order. `take` is
/// called with each, perhaps from several threads at once. Throws what the backend and `take` throw, and BundleError
/// for a gallery whose file was changed.
void score_stream(const Backend& backend, const Choice& choice, const Gallery::Content& images, const Texts& texts,
                  Spaces& spaces, const Take& take);

} // namespace caan::detail
