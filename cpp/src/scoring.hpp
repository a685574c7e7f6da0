/// Images × captions, cut into tiles and scored: one stream for searches and score matrices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <variant>
#include <vector>

#include "backend.hpp"
#include "buffers.hpp"
#include "gallery.hpp"
#include "inputs.hpp"

namespace caan::detail {

/// Captions: encoded, or tokens to be encoded on the fly.
using Texts = std::variant<const Gallery::Content*, const Tokens*>;

/// Positions of images (n) and captions (m), and their scores (n, m).
struct Scored {
    const std::int64_t* images;
    std::size_t n;
    const std::int64_t* captions;
    std::size_t m;
    const float* scores;
};

/// Receives each block of scores.
using Take = std::function<void(const Scored&)>;

/// How tiles are scored, for backends that use tiles.
struct Choice {
    std::size_t tile_bytes; // memory for one tile's intermediates; 0: Python's default
    int workers;            // concurrent scorer calls; 0: one, or for many pairs as many as threads
};

/// Buffers for the tiles of a call.
struct Spaces {
    Workspaces captions, tiles;
};

/// The items of each side that are scored, increasing; null: the live ones of a gallery, and all tokens.
struct Chosen {
    const std::vector<std::int64_t>* images = nullptr;
    const std::vector<std::int64_t>* captions = nullptr; // only of a gallery

    const std::vector<std::int64_t>& of_images(const Gallery::Content& gallery) const {
        return images != nullptr ? *images : gallery.live;
    }
    const std::vector<std::int64_t>& of_captions(const Gallery::Content& gallery) const {
        return captions != nullptr ? *captions : gallery.live;
    }
};

/// Score every live, or chosen, image with every such caption, in blocks in no particular order. `take` is called with
/// each, perhaps from several threads at once. Throws what the backend and `take` throw, and BundleError if a gallery's
/// file was changed.
void score_stream(const Backend& backend, const Choice& choice, const Gallery::Content& images, const Texts& texts,
                  Spaces& spaces, const Take& take, const Chosen& chosen = {});

} // namespace caan::detail
