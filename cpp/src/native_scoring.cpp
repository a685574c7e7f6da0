#include "native_scoring.hpp"

#include <algorithm>

#include "encoding.hpp"
#include "states.hpp"
#include "tiling.hpp"

namespace caan::detail {
namespace {

// Scores of one kernel call: enough to amortize the call, small compared with the states.
constexpr std::size_t BLOCK_PAIRS = std::size_t{1} << 16;
// Recomputed states should still be in a cache when they are read.
constexpr std::size_t EXPANDED_BYTES = std::size_t{16} << 20;

/// Items of one side: their positions, and their states.
struct Items {
    const std::int64_t* positions; // (count)
    const kernels::State* states;  // (count)
    std::size_t count;
};

/// Verifies the states of items, whose positions increase: not those between them, if they lie far apart.
void check_rows(const Gallery::Content& gallery, const std::int64_t* positions, std::size_t count) {
    constexpr std::int64_t FAR = 64;
    for (std::size_t i = 0, end = 0; gallery.check != nullptr && i < count; i = end) {
        for (end = i + 1; end < count && positions[end] - positions[end - 1] < FAR;) {
            ++end;
        }
        (*gallery.check)(gallery.offsets[static_cast<std::size_t>(positions[i])],
                         gallery.offsets[static_cast<std::size_t>(positions[end - 1]) + 1]);
    }
}

Items in_place(const Gallery::Content& gallery, const std::int64_t* positions, std::size_t count, Workspace& space) {
    check_rows(gallery, positions, count);
    auto* states = space.items.get<kernels::State>(count);
    std::transform(positions, positions + count, states, [&](std::int64_t item) {
        return kernels::State{gallery.row(gallery.offsets[static_cast<std::size_t>(item)]),
                              static_cast<std::size_t>(gallery.length(item)), gallery.type};
    });
    return {positions, states, count};
}

Items in_space(const Padded& padded, const std::int64_t* positions, std::size_t row_bytes, Dtype type,
               Workspace& space) {
    const auto count = static_cast<std::size_t>(padded.items);
    auto* states = space.items.get<kernels::State>(count);
    const auto* first = static_cast<const std::byte*>(padded.states);
    for (std::size_t i = 0; i < count; ++i) {
        states[i] = {first + i * static_cast<std::size_t>(padded.longest) * row_bytes,
                     static_cast<std::size_t>(padded.lengths[i]), stored_type(type)};
    }
    return {positions, states, count};
}

/// One call of score_natively.
class NativeStream {
public:
    NativeStream(const Backend& backend, std::size_t expanded_bytes, const Gallery::Content& images, const Texts& texts,
                 Spaces& spaces, const Take& take, const Chosen& chosen)
        : backend_(backend), expanded_bytes_(expanded_bytes == 0 ? EXPANDED_BYTES : expanded_bytes), gallery_(images),
          images_(chosen.of_images(images)), take_(take), caption_space_(spaces.captions.borrow()),
          image_space_(spaces.tiles.borrow()) {
        if (const auto* gallery = std::get_if<const Gallery::Content*>(&texts)) {
            captions_ = *gallery;
            order_ = &chosen.of_captions(**gallery);
        } else {
            tokens_ = std::get<const Tokens*>(texts);
            by_length_ = by_length(tokens_->lengths);
            order_ = &by_length_;
        }
    }

    void run() {
        const std::size_t all = order_->size();
        // Take more encoded captions at a time if there are few images.
        const std::size_t most = tokens_ != nullptr
                                     ? captions_per_call(backend_)
                                     : std::max(captions_per_call(backend_), BLOCK_PAIRS / images_.size());
        for (std::size_t start = 0; start < all; start += most) {
            score_all_images(captions(start, std::min(most, all - start)));
        }
    }

private:
    Items captions(std::size_t start, std::size_t count) {
        const std::int64_t* positions = order_->data() + start;
        if (tokens_ == nullptr) {
            return in_place(*captions_, positions, count, *caption_space_);
        }
        const Padded encoded = encode_some_captions(backend_, *tokens_, positions, count, *caption_space_);
        return in_space(encoded, positions, backend_.state_row_bytes(Kind::text), backend_.state_dtype(),
                        *caption_space_);
    }

    Items images(std::size_t start, std::size_t count) {
        const std::int64_t* positions = images_.data() + start;
        if (!gallery_.compact) {
            return in_place(gallery_, positions, count, *image_space_);
        }
        const Padded expanded = gather_states(backend_, gallery_, positions, count, *image_space_);
        return in_space(expanded, positions, backend_.state_row_bytes(Kind::image), backend_.state_dtype(),
                        *image_space_);
    }

    void score_all_images(const Items& captions) {
        const std::size_t all = images_.size();
        const std::size_t most = std::min({all, std::max<std::size_t>(1, BLOCK_PAIRS / captions.count), expandable()});
        auto* scores = image_space_->scores.get<float>(most * captions.count);
        for (std::size_t start = 0; start < all; start += most) {
            const Items some = images(start, std::min(most, all - start));
            backend_.native()->score(some.states, some.count, captions.states, captions.count, scores);
            take_({some.positions, some.count, captions.positions, captions.count, scores});
        }
    }

    /// The most images of a compact gallery at a time.
    std::size_t expandable() const {
        const std::size_t item = static_cast<std::size_t>(gallery_.longest) * backend_.state_row_bytes(Kind::image);
        return gallery_.compact ? std::max<std::size_t>(1, expanded_bytes_ / item) : images_.size();
    }

    const Backend& backend_;
    std::size_t expanded_bytes_;
    const Gallery::Content& gallery_;
    const std::vector<std::int64_t>& images_;
    const Take& take_;
    Workspaces::Loan caption_space_, image_space_;
    // One of these.
    const Gallery::Content* captions_ = nullptr;
    const Tokens* tokens_ = nullptr;
    std::vector<std::int64_t> by_length_; // the tokens, so that an encoder call has similar lengths
    const std::vector<std::int64_t>* order_ = nullptr; // of the captions
};

} // namespace

void score_natively(const Backend& backend, std::size_t expanded_bytes, const Gallery::Content& images,
                    const Texts& texts, Spaces& spaces, const Take& take, const Chosen& chosen) {
    NativeStream(backend, expanded_bytes, images, texts, spaces, take, chosen).run();
}

} // namespace caan::detail
