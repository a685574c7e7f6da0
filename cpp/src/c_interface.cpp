/// caan.h over caan.hpp: no exception leaves, handles own the C++ objects.
#include <caan/caan.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include <caan/caan.hpp>

struct caan_retriever {
    caan::Retriever retriever;
};

struct caan_gallery {
    caan::Gallery gallery;
};

struct caan_features {
    caan::FeatureFile file;
};

namespace {

std::string& last_error() {
    thread_local std::string message;
    return message;
}

/// Keep the message; without memory for it, no message is better than an exception.
int failed(int code, const char* message) noexcept {
    try {
        last_error() = message;
    } catch (...) {
        last_error().clear();
    }
    return code;
}

template <typename Body> int guarded(const Body& body) noexcept {
    try {
        body();
        return CAAN_OK;
    } catch (const caan::Error& error) {
        return failed(error.exit_code(), error.what());
    } catch (const std::bad_alloc&) {
        return failed(CAAN_FAILED, "out of memory");
    } catch (const std::exception& error) {
        return failed(CAAN_FAILED, error.what());
    } catch (...) {
        return failed(CAAN_FAILED, "an unknown exception was thrown");
    }
}

template <typename T> T& required(T* pointer, const char* name) {
    if (pointer == nullptr) {
        throw caan::InputError(std::string(name) + " is NULL");
    }
    return *pointer;
}

std::vector<caan::Caption> captions_of(const char* const* captions, std::size_t count) {
    std::vector<caan::Caption> result;
    for (std::size_t i = 0; i < count; ++i) {
        result.emplace_back(&required(required(captions, "captions") ? captions[i] : nullptr, "a caption"));
    }
    return result;
}

caan::Dtype dtype_of(caan_dtype dtype) {
    switch (dtype) {
    case CAAN_FLOAT16:
        return caan::Dtype::float16;
    case CAAN_FLOAT32:
        return caan::Dtype::float32;
    case CAAN_FLOAT64:
        return caan::Dtype::float64;
    }
    throw caan::InputError("unknown dtype " + std::to_string(dtype));
}

caan::Options options_of(const caan_options* given) {
    caan::Options options;
    if (given == nullptr) {
        return options;
    }
    // A program built with an earlier version has a shorter struct: missing members are zero.
    caan_options all{};
    const std::size_t size = given->struct_size == 0 ? sizeof all : given->struct_size;
    std::memcpy(&all, given, size < sizeof all ? size : sizeof all);
    options.backend = all.backend != nullptr ? all.backend : options.backend;
    options.precision = all.precision != nullptr ? all.precision : options.precision;
    options.device = all.device != nullptr ? all.device : options.device;
    options.threads = all.threads;
    options.workers = all.workers;
    options.tile_bytes = all.tile_bytes;
    options.prebuilt_engines = all.prebuilt_engines != 0;
    // An earlier struct may have padding here, with arbitrary content.
    options.trust_engines = all.trust_engines == 1;
    if (all.warn != nullptr) {
        options.warn = [all](const std::string& message) { all.warn(message.c_str(), all.warn_context); };
    }
    return options;
}

void copy_hits(const std::vector<std::vector<caan::Hit>>& found, std::size_t k, caan_hit* hits) {
    for (const std::vector<caan::Hit>& row : found) {
        for (std::size_t rank = 0; rank < k; ++rank, ++hits) {
            // A query that is deleted finds nothing.
            *hits = rank < row.size() ? caan_hit{row[rank].index, row[rank].score}
                                      : caan_hit{-1, -std::numeric_limits<float>::infinity()};
        }
    }
}

caan::Search search_of(const caan_sketched* how, std::size_t k) {
    if (k == 0) {
        throw caan::DataError("k is 0; ask for 1 or more");
    }
    caan::Search search;
    search.k = k;
    if (how != nullptr && how->recall != 0) {
        search.recall = how->recall;
    }
    if (how != nullptr && how->candidates != 0) {
        search.candidates = how->candidates;
    }
    return search;
}

void copy_found(std::vector<caan::Found> found, std::size_t k, caan_hit* hits, caan_found* cost) {
    const double none = std::numeric_limits<double>::quiet_NaN();
    caan_found result{0, none, none, none};
    std::vector<std::vector<caan::Hit>> rows;
    for (caan::Found& one : found) {
        result.candidates = one.candidates.value_or(0);
        const caan::Measured recall = one.recall.value_or(caan::Measured{none, none, none});
        result = {result.candidates, recall.value, recall.low, recall.high};
        rows.push_back(std::move(one.hits));
    }
    copy_hits(rows, k, hits);
    if (cost != nullptr) {
        *cost = result;
    }
}

caan_gallery* handle_of(caan::Gallery gallery) { return new caan_gallery{std::move(gallery)}; }

} // namespace

void caan_options_init(caan_options* options) {
    if (options != nullptr) {
        *options = {};
        options->struct_size = sizeof *options;
    }
}

const char* caan_last_error(void) { return last_error().c_str(); }

const char* caan_version(void) { return caan::version(); }

int caan_open(const char* path, const caan_options* options, caan_retriever** retriever) {
    return guarded([&] {
        caan_retriever*& result = required(retriever, "retriever"); // before there is something to lose
        result = new caan_retriever{caan::Retriever::open(&required(path, "path"), options_of(options))};
    });
}

void caan_close(caan_retriever* retriever) { delete retriever; }

size_t caan_region_dim(const caan_retriever* retriever) {
    return retriever == nullptr ? 0 : retriever->retriever.region_dim();
}

const char* caan_backend(const caan_retriever* retriever) {
    return retriever == nullptr ? "" : retriever->retriever.backend();
}

const char* caan_device(const caan_retriever* retriever) {
    return retriever == nullptr ? "" : retriever->retriever.device().c_str();
}

size_t caan_buffer_growths(const caan_retriever* retriever) {
    return retriever == nullptr ? 0 : retriever->retriever.buffer_growths();
}

int caan_features_open(const char* path, caan_features** features) {
    return guarded([&] {
        caan_features*& result = required(features, "features");
        result = new caan_features{caan::FeatureFile::open(&required(path, "path"))};
    });
}

void caan_features_close(caan_features* features) { delete features; }

size_t caan_features_images(const caan_features* features) {
    return features == nullptr ? 0 : features->file.features().shape[0];
}

int caan_gallery_open(const char* folder, caan_gallery** gallery) {
    return guarded([&] {
        caan_gallery*& result = required(gallery, "gallery");
        result = handle_of(caan::Gallery::open(&required(folder, "folder")));
    });
}

void caan_gallery_close(caan_gallery* gallery) { delete gallery; }

size_t caan_gallery_size(const caan_gallery* gallery) { return gallery == nullptr ? 0 : gallery->gallery.size(); }

size_t caan_gallery_live(const caan_gallery* gallery) { return gallery == nullptr ? 0 : gallery->gallery.live(); }

caan_kind caan_gallery_kind(const caan_gallery* gallery) {
    return gallery != nullptr && gallery->gallery.kind() == caan::Kind::text ? CAAN_TEXT : CAAN_IMAGE;
}

const char* caan_gallery_id(const caan_gallery* gallery, size_t index) {
    const std::vector<std::string>* ids = gallery == nullptr ? nullptr : gallery->gallery.ids();
    return ids == nullptr || index >= ids->size() ? nullptr : (*ids)[index].c_str();
}

int caan_encode_images(const caan_retriever* retriever, const void* features, caan_dtype dtype, size_t images,
                       size_t regions, size_t columns, const int64_t* lengths, caan_gallery** gallery) {
    return guarded([&] {
        if (features == nullptr) {
            throw caan::InputError("features is NULL");
        }
        const caan::Features view(features, {images, regions, columns}, dtype_of(dtype));
        const std::vector<int64_t> given(lengths, lengths == nullptr ? lengths : lengths + images);
        caan_gallery*& result = required(gallery, "gallery");
        result = handle_of(required(retriever, "retriever").retriever.encode_images(view, given));
    });
}

int caan_encode_file(const caan_retriever* retriever, const caan_features* features, const int64_t* lengths,
                     caan_gallery** gallery) {
    return guarded([&] {
        const caan::Features& view = required(features, "features").file.features();
        const std::vector<int64_t> given(lengths, lengths == nullptr ? lengths : lengths + view.shape[0]);
        caan_gallery*& result = required(gallery, "gallery");
        result = handle_of(required(retriever, "retriever").retriever.encode_images(view, given));
    });
}

int caan_encode_captions(const caan_retriever* retriever, const char* const* captions, size_t count,
                         caan_gallery** gallery) {
    return guarded([&] {
        const std::vector<caan::Caption> texts = captions_of(captions, count);
        caan_gallery*& result = required(gallery, "gallery");
        result = handle_of(required(retriever, "retriever").retriever.encode_captions(texts));
    });
}

int caan_search(const caan_retriever* retriever, const char* caption, const caan_gallery* gallery, size_t k,
                caan_hit* hits) {
    return caan_search_many(retriever, &caption, 1, gallery, k, hits);
}

int caan_search_image(const caan_retriever* retriever, const void* features, caan_dtype dtype, size_t regions,
                      size_t columns, const caan_gallery* gallery, size_t k, caan_hit* hits) {
    return guarded([&] {
        if (features == nullptr) {
            throw caan::InputError("features is NULL");
        }
        const caan::Features view(features, {regions, columns}, dtype_of(dtype));
        const caan::Gallery& found = required(gallery, "gallery").gallery;
        copy_hits({required(retriever, "retriever").retriever.search(view, found, k)}, k, &required(hits, "hits"));
    });
}

int caan_search_many(const caan_retriever* retriever, const char* const* captions, size_t count,
                     const caan_gallery* gallery, size_t k, caan_hit* hits) {
    return guarded([&] {
        const std::vector<caan::Caption> texts = captions_of(captions, count);
        const caan::Gallery& found = required(gallery, "gallery").gallery;
        caan_hit& first = required(hits, "hits");
        copy_hits(required(retriever, "retriever").retriever.search_many(texts, found, k), k, &first);
    });
}

int caan_search_gallery(const caan_retriever* retriever, const caan_gallery* queries, const caan_gallery* gallery,
                        size_t k, caan_hit* hits) {
    return guarded([&] {
        const caan::Gallery& asked = required(queries, "queries").gallery;
        const caan::Gallery& found = required(gallery, "gallery").gallery;
        caan_hit& first = required(hits, "hits");
        copy_hits(required(retriever, "retriever").retriever.search_many(asked, found, k), k, &first);
    });
}

int caan_search_sketched(const caan_retriever* retriever, const char* caption, const caan_gallery* gallery, size_t k,
                         const caan_sketched* how, caan_hit* hits, caan_found* found) {
    return caan_search_many_sketched(retriever, &caption, 1, gallery, k, how, hits, found);
}

int caan_search_image_sketched(const caan_retriever* retriever, const void* features, caan_dtype dtype, size_t regions,
                               size_t columns, const caan_gallery* gallery, size_t k, const caan_sketched* how,
                               caan_hit* hits, caan_found* found) {
    return guarded([&] {
        if (features == nullptr) {
            throw caan::InputError("features is NULL");
        }
        const caan::Features view(features, {regions, columns}, dtype_of(dtype));
        const caan::Gallery& searched = required(gallery, "gallery").gallery;
        const caan::Search search = search_of(how, k);
        caan_hit& first = required(hits, "hits");
        copy_found({required(retriever, "retriever").retriever.search(view, searched, search)}, k, &first, found);
    });
}

int caan_search_many_sketched(const caan_retriever* retriever, const char* const* captions, size_t count,
                              const caan_gallery* gallery, size_t k, const caan_sketched* how, caan_hit* hits,
                              caan_found* found) {
    return guarded([&] {
        const std::vector<caan::Caption> texts = captions_of(captions, count);
        const caan::Gallery& searched = required(gallery, "gallery").gallery;
        const caan::Search search = search_of(how, k);
        caan_hit& first = required(hits, "hits");
        copy_found(required(retriever, "retriever").retriever.search_many(texts, searched, search), k, &first, found);
    });
}

int caan_search_gallery_sketched(const caan_retriever* retriever, const caan_gallery* queries,
                                 const caan_gallery* gallery, size_t k, const caan_sketched* how, caan_hit* hits,
                                 caan_found* found) {
    return guarded([&] {
        const caan::Gallery& asked = required(queries, "queries").gallery;
        const caan::Gallery& searched = required(gallery, "gallery").gallery;
        const caan::Search search = search_of(how, k);
        caan_hit& first = required(hits, "hits");
        copy_found(required(retriever, "retriever").retriever.search_many(asked, searched, search), k, &first, found);
    });
}

int caan_score_matrix(const caan_retriever* retriever, const caan_gallery* images, const char* const* captions,
                      size_t count, float* scores) {
    return guarded([&] {
        const std::vector<caan::Caption> texts = captions_of(captions, count);
        const caan::Gallery& gallery = required(images, "images").gallery;
        required(retriever, "retriever").retriever.score_matrix(gallery, texts, &required(scores, "scores"));
    });
}

int caan_score_galleries(const caan_retriever* retriever, const caan_gallery* images, const caan_gallery* captions,
                         float* scores) {
    return guarded([&] {
        const caan::Gallery& rows = required(images, "images").gallery;
        const caan::Gallery& columns = required(captions, "captions").gallery;
        required(retriever, "retriever").retriever.score_matrix(rows, columns, &required(scores, "scores"));
    });
}

int caan_tokenize(const caan_retriever* retriever, const char* caption, int64_t* ids, size_t capacity, size_t* count) {
    return guarded([&] {
        const std::string text = &required(caption, "caption");
        const std::vector<int64_t> found = required(retriever, "retriever").retriever.tokenize(text);
        size_t& number = required(count, "count");
        if (capacity > 0) {
            std::copy_n(found.begin(), std::min(capacity, found.size()), &required(ids, "ids"));
        }
        number = found.size();
    });
}
