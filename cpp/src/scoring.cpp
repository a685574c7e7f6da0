#include "scoring.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>

#include "encoding.hpp"
#include "native_scoring.hpp"
#include "states.hpp"
#include "tiling.hpp"

namespace caan::detail {
namespace {

/// Positions sorted by length, and lengths in that order.
struct Sorted {
    std::vector<std::int64_t> items, lengths;
    std::int64_t longest() const { return lengths.back(); }
};

/// Captions encoded or gathered together, and their tile size.
struct Chunk {
    std::size_t start, captions; // into the sorted captions
    TileSize tile;
    std::size_t workers;
};

Sorted sorted(const std::vector<std::int64_t>& positions, const std::function<std::int64_t(std::int64_t)>& length) {
    std::vector<std::int64_t> lengths;
    lengths.reserve(positions.size());
    for (const std::int64_t position : positions) {
        lengths.push_back(length(position));
    }
    Sorted result;
    for (const std::int64_t i : by_length(lengths)) {
        result.items.push_back(positions[static_cast<std::size_t>(i)]);
        result.lengths.push_back(lengths[static_cast<std::size_t>(i)]);
    }
    return result;
}

Sorted sorted_items(const Gallery::Content& gallery, const std::vector<std::int64_t>& items) {
    return sorted(items, [&](std::int64_t item) { return gallery.length(item); });
}

Sorted sorted_texts(const Texts& texts, const Chosen& chosen) {
    if (const auto* gallery = std::get_if<const Gallery::Content*>(&texts)) {
        return sorted_items(**gallery, chosen.of_captions(**gallery));
    }
    const Tokens& tokens = *std::get<const Tokens*>(texts);
    std::vector<std::int64_t> positions(tokens.ids.size());
    for (std::size_t i = 0; i < positions.size(); ++i) {
        positions[i] = static_cast<std::int64_t>(i);
    }
    return sorted(positions, [&](std::int64_t i) { return tokens.lengths[static_cast<std::size_t>(i)]; });
}

/// Python's usual choice for so many pairs, without its trials: it tunes itself if that pays off at once.
Choice filled_in(Choice choice, const Backend& backend, const Gallery::Content& images, std::size_t pairs) {
    const bool on_cpu = backend.device() == "cpu";
    const bool is_tuned = on_cpu && !images.compact && pairs >= WORTH_TUNING_PAIRS;
    if (choice.tile_bytes == 0) {
        choice.tile_bytes = is_tuned ? TUNED_TILE_BYTES : on_cpu ? CPU_TILE_BYTES : GPU_TILE_BYTES;
    }
    if (choice.workers == 0 && !is_tuned) {
        choice.workers = 1;
    }
    return choice;
}

std::size_t divided_up(std::size_t items, std::size_t parts) { return (items + parts - 1) / parts; }

/// One call of score_stream.
class Stream {
public:
    Stream(const Backend& backend, const Choice& choice, const Gallery::Content& images, const Texts& texts,
           Spaces& spaces, const Take& take, const Chosen& chosen)
        : backend_(backend), gallery_(images), texts_(texts), take_(take),
          images_(sorted_items(images, chosen.of_images(images))), captions_(sorted_texts(texts, chosen)),
          choice_(filled_in(choice, backend, images, images_.items.size() * captions_.items.size())),
          caption_space_(spaces.captions.borrow()) {
        const std::size_t per_call = captions_per_call(backend);
        for (std::size_t start = 0; start < captions_.items.size(); start += per_call) {
            chunks_.push_back(plan(start, std::min(per_call, captions_.items.size() - start)));
        }
        reserve(spaces);
    }

    void run() {
        for (const Chunk& chunk : chunks_) {
            score_chunk(chunk);
        }
    }

private:
    Chunk plan(std::size_t start, std::size_t captions) const {
        const auto threads = static_cast<std::size_t>(backend_.has_single_scorer() ? backend_.threads() : 1);
        const Chunk beside{start, captions, tile_of(start, captions, threads), threads};
        const std::size_t rows = divided_up(images_.items.size(), beside.tile.images);
        // With fewer tiles than this, idle threads would wait too long for the others.
        if (choice_.workers > 1 || (choice_.workers == 0 && rows >= 2 * threads)) {
            return beside;
        }
        return {start, captions, tile_of(start, captions, 1), 1};
    }

    TileSize tile_of(std::size_t start, std::size_t captions, std::size_t workers) const {
        const std::int64_t words = captions_.lengths[start + captions - 1];
        const std::size_t images = images_.items.size();
        const TileSize square = tile_size(images_.longest(), words, backend_.sizes().attention_dim, choice_.tile_bytes);
        const CallSizes& most = backend_.most();
        const TileSize tile = widen(square, std::min(images, static_cast<std::size_t>(most.images)),
                                    std::min(captions, static_cast<std::size_t>(most.captions)));
        // Give every thread some tiles: the last ones determine the time of a small job.
        return {std::min(tile.images, divided_up(images, workers)), tile.captions};
    }

    /// Grow all buffers to this call's maximum: none grows between tiles, or in a similar later call.
    void reserve(Spaces& spaces) {
        std::size_t images = 0, pairs = 0, workers = 1;
        for (const Chunk& chunk : chunks_) {
            images = std::max(images, chunk.tile.images);
            pairs = std::max(pairs, chunk.tile.images * chunk.tile.captions);
            workers = std::max(workers, chunk.workers);
        }
        const auto words = static_cast<std::size_t>(captions_.longest()),
                   regions = static_cast<std::size_t>(images_.longest());
        const std::size_t captions = std::min(captions_per_call(backend_), captions_.items.size());
        caption_space_->lengths.get<std::int64_t>(captions);
        caption_space_->tokens.get<std::int64_t>(captions * words);
        caption_space_->states.get<std::byte>(captions * words * backend_.state_row_bytes(Kind::text));
        for (std::size_t i = 0; i < workers; ++i) {
            tile_spaces_.push_back(spaces.tiles.borrow());
            Workspace& space = *tile_spaces_.back();
            space.lengths.get<std::int64_t>(images);
            space.scores.get<float>(pairs);
            space.states.get<std::byte>(images * regions * backend_.state_row_bytes(Kind::image));
            if (gallery_.compact) {
                space.regions.get<float>(images * regions * gallery_.columns);
                const auto width = static_cast<std::size_t>(backend_.sizes().state_width(Kind::image));
                space.wide.get<float>(backend_.state_dtype() == Dtype::float32 ? 0 : images * regions * width);
            }
        }
    }

    void score_chunk(const Chunk& chunk) {
        const std::vector<Padded> parts = cut(chunk, captions_of(chunk));
        std::atomic<std::size_t> next{0};
        std::atomic<bool> failed{false};
        const auto work = [&](Workspace& space) {
            try {
                for (std::size_t row = 0;
                     !failed && (row = next.fetch_add(chunk.tile.images)) < images_.items.size();) {
                    score_row(chunk, parts, row, space);
                }
            } catch (...) {
                failed = true;
                throw;
            }
        };
        std::vector<std::future<void>> others;
        for (std::size_t i = 1; i < chunk.workers; ++i) {
            others.push_back(std::async(std::launch::async, work, std::ref(*tile_spaces_[i])));
        }
        work(*tile_spaces_[0]);
        for (std::future<void>& other : others) {
            other.get();
        }
    }

    Padded captions_of(const Chunk& chunk) {
        const std::int64_t* items = captions_.items.data() + chunk.start;
        if (const auto* gallery = std::get_if<const Gallery::Content*>(&texts_)) {
            return gather_states(backend_, **gallery, items, chunk.captions, *caption_space_);
        }
        return encode_some_captions(backend_, *std::get<const Tokens*>(texts_), items, chunk.captions, *caption_space_);
    }

    /// The captions of each tile, padded to the longest of them: compacted within their buffer.
    std::vector<Padded> cut(const Chunk& chunk, const Padded& all) const {
        const std::size_t row_bytes = backend_.state_row_bytes(Kind::text);
        const auto longest = static_cast<std::size_t>(all.longest);
        // Captions of one length may be a view of a gallery: they are not moved.
        const bool is_even = all.lengths[0] == all.longest;
        auto* states = static_cast<std::byte*>(const_cast<void*>(all.states));
        std::vector<Padded> parts;
        parts.reserve(divided_up(chunk.captions, chunk.tile.captions));
        std::size_t filled = 0;
        for (std::size_t start = 0; start < chunk.captions; start += chunk.tile.captions) {
            const std::size_t n = std::min(chunk.tile.captions, chunk.captions - start);
            const auto words = static_cast<std::size_t>(all.lengths[start + n - 1]);
            parts.push_back(
                {states + filled, all.lengths + start, static_cast<std::int64_t>(n), static_cast<std::int64_t>(words)});
            for (std::size_t i = start; i < start + n; ++i, filled += words * row_bytes) {
                if (!is_even) {
                    std::memmove(states + filled, states + i * longest * row_bytes, words * row_bytes);
                }
            }
        }
        return parts;
    }

    /// Tiles of the images from position `row` on with every caption of the chunk.
    void score_row(const Chunk& chunk, const std::vector<Padded>& parts, std::size_t row, Workspace& space) const {
        const std::int64_t* items = images_.items.data() + row;
        const std::size_t n = std::min(chunk.tile.images, images_.items.size() - row);
        const Padded states = gather_states(backend_, gallery_, items, n, space);
        auto* scores = space.scores.get<float>(n * chunk.tile.captions);
        const std::int64_t* captions = captions_.items.data() + chunk.start;
        for (const Padded& part : parts) {
            backend_.score(states, part, scores, chunk.workers > 1);
            take_({items, n, captions, static_cast<std::size_t>(part.items), scores});
            captions += part.items;
        }
    }

    const Backend& backend_;
    const Gallery::Content& gallery_;
    const Texts& texts_;
    const Take& take_;
    Sorted images_, captions_;
    Choice choice_;
    Workspaces::Loan caption_space_;
    std::vector<Workspaces::Loan> tile_spaces_;
    std::vector<Chunk> chunks_;
};

} // namespace

void score_stream(const Backend& backend, const Choice& choice, const Gallery::Content& images, const Texts& texts,
                  Spaces& spaces, const Take& take, const Chosen& chosen) {
    const auto* gallery = std::get_if<const Gallery::Content*>(&texts);
    if (chosen.of_images(images).empty() || (gallery != nullptr && chosen.of_captions(**gallery).empty())) {
        return;
    }
    if (backend.native() != nullptr) {
        score_natively(backend, choice.tile_bytes, images, texts, spaces, take, chosen);
    } else {
        Stream(backend, choice, images, texts, spaces, take, chosen).run();
    }
    images.confirm();
    if (gallery != nullptr) {
        (*gallery)->confirm();
    }
}

} // namespace caan::detail
