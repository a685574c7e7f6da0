/// Features and tokens → states, in batches.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "backend.hpp"
#include "buffers.hpp"
#include "inputs.hpp"

namespace caan::detail {

/// Items per encoder call. The text encoder's recurrence benefits from a wide batch; states of one call stay small.
std::size_t images_per_call(const Backend& backend);
std::size_t captions_per_call(const Backend& backend);

/// Encode images [start, end) of features (N, R, F), into `space`.
Padded encode_some_images(const Backend& backend, const Features& features, std::size_t start, std::size_t end,
                          Workspace& space);

/// Encode the captions with indices `items` (n) into the tokens, into `space`.
Padded encode_some_captions(const Backend& backend, const Tokens& tokens, const std::int64_t* items, std::size_t n,
                            Workspace& space);

/// Encode all of them into a gallery in memory. `ids` (N) or empty.
/// Throws DataError, naming the item, if a state is not finite.
Gallery encode_images(const Backend& backend, const Features& features, const std::vector<std::int64_t>& lengths,
                      const std::vector<std::string>& ids, Workspace& space);
Gallery encode_captions(const Backend& backend, const Tokens& tokens, const std::vector<std::string>& ids,
                        Workspace& space);

/// A gallery in memory for items of these lengths; its states are not set yet.
std::shared_ptr<Gallery::Content> new_gallery(const Backend& backend, Kind kind,
                                              const std::vector<std::int64_t>& lengths);

} // namespace caan::detail
