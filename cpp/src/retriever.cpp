#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <limits>

#include <caan/caan.hpp>

#include "bundle.hpp"
#include "encoding.hpp"
#include "files.hpp"
#include "machine.hpp"
#include "retriever_impl.hpp"
#include "states.hpp"
#include "text.hpp"

namespace caan {
namespace {

using namespace detail;

void to_standard_error(const std::string& message) {
    (void)std::fprintf(stderr, "Warning: %s\n", visible(message).c_str()); // may quote an id or a caption
}

void check_options(const Options& options) {
    const auto is = [](const std::string& value, std::initializer_list<const char*> known) {
        return std::find(known.begin(), known.end(), value) != known.end();
    };
    if (!is(options.backend, {"native", "onnxruntime", "tensorrt", "auto"})) {
        throw InputError("unknown backend '" + options.backend + "'; known: native, onnxruntime, tensorrt, auto");
    }
    if (!is(options.device, {"auto", "cpu", "cuda"})) {
        throw InputError("unknown device '" + options.device + "'; known: cpu, cuda, auto");
    }
    if (options.precision == "bf16" && is(options.backend, {"onnxruntime", "tensorrt"})) {
        throw InputError("the backend '" + options.backend +
                         "' has no precision 'bf16'; use 'native' on a CPU, 'triton' on a GPU");
    }
    if (options.backend == "native" || (options.backend == "auto" && options.precision == "bf16")) {
        check_native(options);
    }
    if (options.backend == "tensorrt" && options.device == "cpu") {
        throw InputError("the backend 'tensorrt' runs on device 'cuda'; on 'cpu' use backend 'onnxruntime'");
    }
    if (options.prebuilt_engines && options.backend != "tensorrt") {
        throw InputError("prebuilt engines run on backend 'tensorrt'; ask for that one too");
    }
    if (options.threads < 0 || options.workers < 0) {
        throw InputError("threads and workers must be 0 or more; 0 leaves the choice to caan");
    }
}

/// Warns if the precision missed its accuracy gate. Does not throw.
void warn_of_failed_gate(const Bundle& bundle, const std::string& precision, const Warn& warn) {
    const OrderedJson& entry = member(bundle.manifest["precisions"], precision);
    if (member(entry, "status") != "failed") {
        return;
    }
    std::string summary;
    for (const OrderedJson& check : member(entry, "checks")) {
        if (member(check, "passed") == false) {
            const OrderedJson& text = member(check, "summary");
            summary = text.is_string() ? text.get<std::string>() : "";
        }
    }
    warn(precision + " of " + bundle.folder + " missed its accuracy gate" +
         (summary.empty() ? "" : ": " + visible(summary)) + "; use it to investigate, not to search");
}

/// An image that a gallery of captions is searched with.
Gallery encoded_query(const Retriever& retriever, const Features& query, const Gallery& gallery, const Sizes& sizes) {
    if (gallery.kind() != Kind::text) {
        throw DataError("this gallery holds images; search it with captions, not with images");
    }
    check_image(query, sizes);
    return retriever.encode_images({query.data, {1, query.shape[0], query.shape[1]}, query.dtype});
}

std::vector<Found> exact(std::vector<std::vector<Hit>> hits) {
    std::vector<Found> found;
    for (std::vector<Hit>& some : hits) {
        found.push_back({std::move(some), std::nullopt, std::nullopt});
    }
    return found;
}

} // namespace

Retriever Retriever::open(const std::string& path, const Options& options) {
    check_options(options);
    const std::string folder = normal_path(path);
    if (is_file(folder)) {
        throw BundleError(folder + " is a file, not a bundle; export it first: caan-export " + folder);
    }
    std::unique_ptr<Impl> impl;
    from_bundle(folder, [&](const Bundle& bundle) {
        impl = std::make_unique<Impl>(bundle, options, options.warn ? options.warn : to_standard_error);
        warn_of_failed_gate(bundle, graph_precision(options.precision), impl->warn);
    });
    // Reading a graph temporarily takes several times its size.
    release_freed_memory();
    return Retriever(std::move(impl));
}

Retriever::Retriever(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Retriever::Retriever(Retriever&& other) noexcept = default;
Retriever& Retriever::operator=(Retriever&& other) noexcept = default;
Retriever::~Retriever() = default;

Gallery Retriever::encode_images(const Features& features, const std::vector<std::int64_t>& lengths,
                                 const std::vector<std::string>& ids) const {
    check_features(features, impl_->backend.sizes());
    const auto space = impl_->spaces.captions.borrow();
    return detail::encode_images(impl_->backend, features, image_lengths(features, lengths), ids, *space);
}

Gallery Retriever::encode_captions(const std::vector<Caption>& captions, const std::vector<std::string>& ids) const {
    const auto space = impl_->spaces.captions.borrow();
    return detail::encode_captions(impl_->backend, impl_->tokens_of(captions), ids, *space);
}

std::vector<Hit> Retriever::search(const Caption& query, const Gallery& gallery) const {
    return search(query, gallery, Impl::default_hits(gallery));
}

std::vector<Hit> Retriever::search(const Features& query, const Gallery& gallery) const {
    return search(query, gallery, Impl::default_hits(gallery));
}

std::vector<std::vector<Hit>> Retriever::search_many(const std::vector<Caption>& queries,
                                                     const Gallery& gallery) const {
    return search_many(queries, gallery, Impl::default_hits(gallery));
}

std::vector<std::vector<Hit>> Retriever::search_many(const Gallery& queries, const Gallery& gallery) const {
    return search_many(queries, gallery, Impl::default_hits(gallery));
}

std::vector<Hit> Retriever::search(const Caption& query, const Gallery& gallery, std::size_t k) const {
    return search_many(std::vector<Caption>{query}, gallery, k)[0];
}

std::vector<Hit> Retriever::search(const Features& query, const Gallery& gallery, std::size_t k) const {
    return search_many(encoded_query(*this, query, gallery, impl_->backend.sizes()), gallery, k)[0];
}

std::vector<std::vector<Hit>> Retriever::search_many(const std::vector<Caption>& queries, const Gallery& gallery,
                                                     std::size_t k) const {
    const Tokens tokens = impl_->query_tokens(queries, gallery);
    return impl_->best(gallery.content(), &tokens, false, queries.size(), k);
}

std::vector<std::vector<Hit>> Retriever::search_many(const Gallery& queries, const Gallery& gallery,
                                                     std::size_t k) const {
    const bool by_image = gallery.kind() == Kind::text;
    impl_->check_gallery(queries.content(), by_image ? Kind::image : Kind::text);
    const Gallery& images = by_image ? queries : gallery;
    const Gallery& texts = by_image ? gallery : queries;
    return impl_->best(images.content(), &texts.content(), by_image, queries.size(), k);
}

Found Retriever::search(const Caption& query, const Gallery& gallery, const Search& how) const {
    return search_many(std::vector<Caption>{query}, gallery, how)[0];
}

Found Retriever::search(const Features& query, const Gallery& gallery, const Search& how) const {
    return search_many(encoded_query(*this, query, gallery, impl_->backend.sizes()), gallery, how)[0];
}

std::vector<Found> Retriever::search_many(const std::vector<Caption>& queries, const Gallery& gallery,
                                          const Search& how) const {
    const Tokens tokens = impl_->query_tokens(queries, gallery);
    const std::size_t k = how.k > 0 ? how.k : Impl::default_hits(gallery);
    const Plan plan = impl_->plan(how, k, gallery.content());
    if (plan.candidates) {
        const auto space = impl_->spaces.captions.borrow();
        const Gallery encoded = detail::encode_captions(impl_->backend, tokens, {}, *space);
        if (auto found = impl_->find(encoded.content(), gallery.content(), k, plan)) {
            return std::move(*found);
        }
    }
    return exact(impl_->best(gallery.content(), &tokens, false, queries.size(), k));
}

std::vector<Found> Retriever::search_many(const Gallery& queries, const Gallery& gallery, const Search& how) const {
    impl_->check_gallery(queries.content(), gallery.kind() == Kind::text ? Kind::image : Kind::text);
    const std::size_t k = how.k > 0 ? how.k : Impl::default_hits(gallery);
    const Plan plan = impl_->plan(how, k, gallery.content());
    if (plan.candidates) {
        if (auto found = impl_->find(queries.content(), gallery.content(), k, plan)) {
            return std::move(*found);
        }
    }
    return exact(search_many(queries, gallery, k));
}

Matrix Retriever::score_matrix(const Gallery& images, const std::vector<Caption>& captions) const {
    Matrix matrix{images.size(), captions.size(), std::vector<float>(images.size() * captions.size())};
    score_matrix(images, captions, matrix.values.data());
    return matrix;
}

Matrix Retriever::score_matrix(const Gallery& images, const Gallery& captions) const {
    Matrix matrix{images.size(), captions.size(), std::vector<float>(images.size() * captions.size())};
    score_matrix(images, captions, matrix.values.data());
    return matrix;
}

void Retriever::score_matrix(const Gallery& images, const std::vector<Caption>& captions, float* out) const {
    impl_->check_gallery(images.content(), Kind::image);
    const Tokens tokens = impl_->tokens_of(captions);
    impl_->fill(images.content(), &tokens, captions.size(), out);
}

void Retriever::score_matrix(const Gallery& images, const Gallery& captions, float* out) const {
    impl_->check_gallery(images.content(), Kind::image);
    impl_->check_gallery(captions.content(), Kind::text);
    impl_->fill(images.content(), &captions.content(), captions.size(), out);
}

Gallery Retriever::load(const Gallery& gallery) const {
    const Gallery::Content& from = gallery.content();
    impl_->check_gallery(from, from.kind);
    std::vector<std::int64_t> lengths;
    for (std::size_t i = 0; i < from.size(); ++i) {
        lengths.push_back(from.length(static_cast<std::int64_t>(i)));
    }
    auto loaded = new_gallery(impl_->backend, from.kind, lengths);
    loaded->ids = from.ids;
    loaded->bundle = from.bundle;
    loaded->deleted = from.deleted;
    loaded->finish();
    const auto space = impl_->spaces.tiles.borrow();
    for (std::int64_t item = 0; item < static_cast<std::int64_t>(from.size()); ++item) {
        const Padded states = gather_states(impl_->backend, from, &item, 1, *space);
        const auto start = static_cast<std::size_t>(from.offsets[static_cast<std::size_t>(item)]);
        std::copy_n(static_cast<const std::byte*>(states.states),
                    static_cast<std::size_t>(states.longest) * loaded->row_bytes(),
                    loaded->memory.get() + start * loaded->row_bytes());
    }
    from.confirm();
    return Gallery(std::move(loaded));
}

std::vector<std::int64_t> Retriever::tokenize(const Caption& caption) const {
    std::vector<std::int64_t> ids = impl_->backend.vocabulary().encode(caption);
    cut(ids, impl_->backend.sizes().most_words);
    return ids;
}

const char* Retriever::backend() const noexcept { return impl_->backend.name(); }

const std::string& Retriever::device() const noexcept { return impl_->backend.device(); }

std::size_t Retriever::region_dim() const noexcept {
    return static_cast<std::size_t>(impl_->backend.sizes().region_dim);
}

std::size_t Retriever::buffer_growths() const noexcept {
    return impl_->spaces.captions.growths() + impl_->spaces.tiles.growths();
}

} // namespace caan
