#include "retriever_impl.hpp"

#include <functional>
#include <limits>

#include "states.hpp"
#include "text.hpp"
#include "top_k.hpp"
#include "unscored.hpp"

namespace caan {

using namespace detail;

namespace {

const char* name_of(Kind kind) { return kind == Kind::image ? "image" : "text"; }

/// Scores of queries with items, whichever side they are on.
void add(TopK& best, const Scored& s, const float* scores, bool by_image) {
    if (by_image) {
        best.add(s.images, s.n, s.m, s.captions, s.m, 1, scores);
    } else {
        best.add(s.captions, s.m, 1, s.images, s.n, s.m, scores);
    }
}

} // namespace

void Retriever::Impl::check_gallery(const Gallery::Content& gallery, Kind kind) const {
    if (gallery.kind != kind) {
        throw DataError(std::string("this gallery holds ") + name_of(gallery.kind) + " states, " + name_of(kind) +
                        " states are needed here");
    }
    if (gallery.encoder != backend.encoder(kind)) {
        throw BundleError("this gallery was made with another model or precision; open the bundle in that "
                          "precision, or encode again: caan index");
    }
    const Sizes& sizes = backend.sizes();
    const std::int64_t width = gallery.compact ? sizes.embed_dim : sizes.state_width(kind);
    if (gallery.columns != static_cast<std::size_t>(width)) {
        throw BundleError("this gallery's states have " + std::to_string(gallery.columns) + " columns, the model's " +
                          std::to_string(width) + "; encode it again: caan index");
    }
    if (gallery.longest > sizes.longest(kind)) {
        const char* part = kind == Kind::image ? "regions" : "words";
        throw DataError(std::string("this gallery has ") + name_of(kind) + "s of " + std::to_string(gallery.longest) +
                        " " + part + ", the backend takes up to " + std::to_string(sizes.longest(kind)));
    }
}

void Retriever::Impl::check_search(const Gallery::Content& gallery, std::size_t k) const {
    check_gallery(gallery, gallery.kind);
    if (gallery.live.empty()) {
        throw DataError("every item of this gallery is deleted; append some, or index it again: caan index");
    }
    if (k < 1 || k > gallery.live.size()) {
        const std::string live = std::to_string(gallery.live.size());
        throw DataError("k is " + std::to_string(k) + ", the gallery has " + live + " items; ask for 1 to " + live);
    }
}

Tokens Retriever::Impl::tokens_of(const std::vector<Caption>& captions) const {
    return detail::tokenize(captions, backend.vocabulary(), backend.sizes().most_words, warn);
}

std::vector<std::vector<Hit>> Retriever::Impl::best(const Gallery::Content& images, const Texts& texts, bool by_image,
                                                    std::size_t queries, std::size_t k) const {
    const Gallery::Content& gallery = by_image ? *std::get<const Gallery::Content*>(texts) : images;
    check_search(gallery, k);
    TopK best(queries, k);
    Unscored unscored(images, texts);
    score_stream(backend, choice, images, texts, spaces, [&](const Scored& s) {
        std::vector<float> room;
        add(best, s, unscored.note(s, room), by_image);
    });
    unscored.check_hits(by_image ? Kind::image : Kind::text, warn);
    return std::move(best).sorted();
}

Tokens Retriever::Impl::query_tokens(const std::vector<Caption>& queries, const Gallery& gallery) const {
    if (!queries.empty() && gallery.kind() != Kind::image) {
        throw DataError("this gallery holds texts; search it with images' features, not with captions");
    }
    for (const Caption& query : queries) {
        check_known(query, backend.vocabulary());
    }
    return tokens_of(queries);
}

Plan Retriever::Impl::plan(const Search& how, std::size_t k, const Gallery::Content& gallery) const {
    check_search(gallery, k);
    const Plan plan = plan_of(how, k, gallery, warn);
    if (plan.candidates && (sketcher().model() != gallery.sketches->entry().model ||
                            sketcher().columns() != gallery.sketches->entry().columns)) {
        const std::string name = visible(gallery.folder);
        throw BundleError("the sketches of " + name +
                          " were made with another model or sketch; make them again: caan sketch " + name);
    }
    return plan;
}

std::optional<std::vector<Found>> Retriever::Impl::find(const Gallery::Content& queries,
                                                        const Gallery::Content& gallery, std::size_t k,
                                                        const Plan& plan) const {
    std::vector<std::int16_t> numbers;
    if (!sketcher().numbers(queries, numbers)) {
        return std::nullopt;
    }
    const Sketches& sketches = *gallery.sketches;
    const std::size_t n = *plan.candidates; // below the number of live items
    std::vector<std::int64_t> indices(queries.size() * n);
    std::vector<std::int32_t> sums(indices.size());
    (void)sketcher().scanner().best(sketches.rows(), sketches.items(), sketches.entry().columns, numbers.data(),
                                    queries.size(), sketches.deleted(), n, indices.data(), sums.data());
    sketches.confirm();
    const auto candidates_of = [&](std::int64_t query) {
        const auto first = indices.begin() + query * static_cast<std::ptrdiff_t>(n);
        std::vector<std::int64_t> items(first, first + static_cast<std::ptrdiff_t>(n));
        std::sort(items.begin(), items.end());
        gallery.fetch(items);
        return items;
    };
    const bool by_image = queries.kind == Kind::image;
    const Gallery::Content &images = by_image ? queries : gallery, &captions = by_image ? gallery : queries;
    const Texts texts = &captions;
    TopK best(queries.size(), k);
    Unscored unscored(images, texts);
    std::vector<std::int64_t> next;
    for (std::size_t i = 0; i < queries.live.size(); ++i) {
        const std::vector<std::int64_t> query{queries.live[i]};
        const std::vector<std::int64_t> items = i == 0 ? candidates_of(query[0]) : std::move(next);
        if (i + 1 < queries.live.size()) {
            next = candidates_of(queries.live[i + 1]); // read from the disk meanwhile
        }
        const Chosen chosen = by_image ? Chosen{&query, &items} : Chosen{&items, &query};
        score_stream(
            backend, choice, images, texts, spaces,
            [&](const Scored& s) {
                std::vector<float> room;
                add(best, s, unscored.note(s, room), by_image);
            },
            chosen);
    }
    unscored.check_hits(queries.kind, warn);
    std::vector<Found> found;
    for (std::vector<Hit>& hits : std::move(best).sorted()) {
        found.push_back({std::move(hits), plan.candidates, plan.recall});
    }
    return found;
}

const Sketcher& Retriever::Impl::sketcher() const {
    const std::lock_guard<std::mutex> one_at_a_time(opening_);
    if (sketcher_ == nullptr) {
        sketcher_ = std::make_unique<Sketcher>(backend, spaces.captions);
    }
    return *sketcher_;
}

void Retriever::Impl::fill(const Gallery::Content& images, const Texts& texts, std::size_t captions, float* out) const {
    std::fill(out, out + images.size() * captions, -std::numeric_limits<float>::infinity());
    Unscored unscored(images, texts);
    const auto take = [&](const Scored& s) {
        std::vector<float> room;
        (void)unscored.note(s, room);
        for (std::size_t i = 0; i < s.n; ++i) {
            float* row = out + static_cast<std::size_t>(s.images[i]) * captions;
            for (std::size_t j = 0; j < s.m; ++j) {
                row[s.captions[j]] = s.scores[i * s.m + j];
            }
        }
    };
    // By reference: its captures exceed std::function's inline storage.
    score_stream(backend, choice, images, texts, spaces, std::cref(take));
    unscored.warn_of_matrix(warn);
}

} // namespace caan
