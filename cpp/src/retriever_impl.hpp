/// What a Retriever holds, and what its searches share.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <caan/caan.hpp>

#include "backend.hpp"
#include "gallery.hpp"
#include "inputs.hpp"
#include "recall.hpp"
#include "scoring.hpp"
#include "sketcher.hpp"

namespace caan {

struct Retriever::Impl {
    Impl(const detail::Bundle& bundle, const Options& options, detail::Warn to)
        : backend(bundle, options), warn(std::move(to)), choice{options.tile_bytes, options.workers} {}

    /// Throws DataError for another kind, BundleError for another model's gallery.
    void check_gallery(const Gallery::Content& gallery, Kind kind) const;
    /// Throws as `check_gallery`, and DataError for k that the gallery can't have.
    void check_search(const Gallery::Content& gallery, std::size_t k) const;
    detail::Tokens tokens_of(const std::vector<Caption>& captions) const;
    /// Of captions that a gallery of images is searched with.
    detail::Tokens query_tokens(const std::vector<Caption>& queries, const Gallery& gallery) const;

    /// The k best of all items. `by_image`: the queries are images.
    std::vector<std::vector<Hit>> best(const Gallery::Content& images, const detail::Texts& texts, bool by_image,
                                       std::size_t queries, std::size_t k) const;
    /// A search's plan. Throws as Retriever::search with a Search.
    detail::Plan plan(const Search& how, std::size_t k, const Gallery::Content& gallery) const;
    /// The k best of the plan's candidates for each of the encoded queries; none if a query has NaN.
    std::optional<std::vector<Found>> find(const Gallery::Content& queries, const Gallery::Content& gallery,
                                           std::size_t k, const detail::Plan& plan) const;
    void fill(const Gallery::Content& images, const detail::Texts& texts, std::size_t captions, float* out) const;

    /// The bundle's sketch, opened by the first search that needs it.
    const detail::Sketcher& sketcher() const;

    /// The number of hits of a query without k.
    static std::size_t default_hits(const Gallery& gallery) {
        constexpr std::size_t HITS = 10;
        return std::clamp<std::size_t>(gallery.live(), 1, HITS);
    }

    detail::Backend backend;
    detail::Warn warn;
    detail::Choice choice;
    mutable detail::Spaces spaces;

private:
    mutable std::mutex opening_;
    mutable std::unique_ptr<detail::Sketcher> sketcher_;
};

} // namespace caan
