/// caan.h: codes, messages, null handles; failing calls leave their results unchanged, and no exception escapes.
#include <caan/caan.h>

#include <cstring>
#include <thread>

#include "helpers.hpp"

using namespace caan_test;

namespace {

struct Handles {
    caan_retriever* retriever = nullptr;
    caan_gallery* images = nullptr;
    caan_gallery* texts = nullptr;
    caan_features* features = nullptr;

    Handles() {
        caan_options options;
        caan_options_init(&options);
        options.device = "cpu";
        options.warn = [](const char*, void*) {};
        REQUIRE(caan_open(data("model.caan").c_str(), &options, &retriever) == CAAN_OK);
        REQUIRE(caan_features_open(data("features.npy").c_str(), &features) == CAAN_OK);
        REQUIRE(caan_encode_file(retriever, features, lengths().data(), &images) == CAAN_OK);
        const char* captions[] = {"w1 w2", "w3"};
        REQUIRE(caan_encode_captions(retriever, captions, 2, &texts) == CAAN_OK);
    }
    ~Handles() {
        caan_gallery_close(images);
        caan_gallery_close(texts);
        caan_features_close(features);
        caan_close(retriever);
    }
};

std::string message() { return caan_last_error(); }

} // namespace

TEST_CASE("the C interface gives the C++ interface's answers") {
    const Handles handles;
    CHECK(caan_region_dim(handles.retriever) == 12);
    CHECK(caan_backend(handles.retriever) == std::string("native"));
    CHECK(caan_device(handles.retriever) == std::string("cpu"));
    CHECK(caan_version() == std::string(caan::version()));
    CHECK(caan_features_images(handles.features) == 300);
    CHECK(caan_gallery_size(handles.images) == 300);
    CHECK(caan_gallery_live(handles.images) == 300);
    CHECK(caan_gallery_kind(handles.images) == CAAN_IMAGE);
    CHECK(caan_gallery_kind(handles.texts) == CAAN_TEXT);

    const std::vector<std::string> texts = captions();
    std::vector<const char*> pointers;
    for (const std::string& text : texts) {
        pointers.push_back(text.c_str());
    }
    std::vector<float> scores(300 * texts.size(), 7);
    REQUIRE(caan_score_matrix(handles.retriever, handles.images, pointers.data(), texts.size(), scores.data()) ==
            CAAN_OK);
    CHECK(scores[41] == Approx(expected()["scores"][1][1].get<float>()).margin(1e-5));
    std::vector<caan_hit> hits(texts.size() * 10);
    REQUIRE(caan_search_many(handles.retriever, pointers.data(), texts.size(), handles.images, 10, hits.data()) ==
            CAAN_OK);
    CHECK(hits[15].index == expected()["hits"][1][5].get<std::int64_t>());
    REQUIRE(caan_search(handles.retriever, pointers[1], handles.images, 10, hits.data()) == CAAN_OK);
    CHECK(hits[5].index == expected()["hits"][1][5].get<std::int64_t>());
    REQUIRE(caan_search_gallery(handles.retriever, handles.texts, handles.images, 10, hits.data()) == CAAN_OK);
    REQUIRE(caan_search_image(handles.retriever, features().data, CAAN_FLOAT32, 5, 12, handles.texts, 2, hits.data()) ==
            CAAN_OK);
    REQUIRE(caan_score_galleries(handles.retriever, handles.images, handles.texts, scores.data()) == CAAN_OK);
    CHECK(caan_buffer_growths(handles.retriever) > 0);
}

TEST_CASE("tokens into room for all, some or none of them") {
    const Handles handles;
    std::int64_t ids[8] = {};
    std::size_t count = 0;
    REQUIRE(caan_tokenize(handles.retriever, "w1 w2", nullptr, 0, &count) == CAAN_OK);
    CHECK(count == 4);
    REQUIRE(caan_tokenize(handles.retriever, "w1 w2", ids, 2, &count) == CAAN_OK);
    CHECK(count == 4);
    CHECK(ids[1] == 5);
    CHECK(ids[2] == 0);
    count = 99;
    CHECK(caan_tokenize(handles.retriever, "w1 w2", nullptr, 2, &count) == CAAN_INPUT);
    CHECK(message() == "ids is NULL");
    CHECK(count == 99);
}

TEST_CASE("a deleted query finds nothing: index -1") {
    const Handles handles;
    caan_gallery* deleted = nullptr;
    REQUIRE(caan_gallery_open(data("galleries/deleted").c_str(), &deleted) == CAAN_OK);
    CHECK(caan_gallery_live(deleted) == 295);
    CHECK(caan_gallery_id(deleted, 2) == std::string("картина 2.jpg"));
    CHECK(caan_gallery_id(deleted, 300) == nullptr);
    CHECK(caan_gallery_id(handles.texts, 0) == nullptr);
    std::vector<caan_hit> hits(600);
    REQUIRE(caan_search_gallery(handles.retriever, deleted, handles.texts, 2, hits.data()) == CAAN_OK);
    CHECK(hits[14].index == -1);
    CHECK(hits[15].index == -1);
    CHECK(hits[16].index == -1);
    CHECK(hits[20].index >= 0);
    caan_gallery_close(deleted);
}

TEST_CASE("codes and messages of failures, which leave results unchanged") {
    const Handles handles;
    auto* untouched = reinterpret_cast<caan_retriever*>(std::uintptr_t{8});
    caan_retriever* opened = untouched;
    CHECK(caan_open("/nowhere.caan", nullptr, &opened) == CAAN_INPUT);
    CHECK(message() == "/nowhere.caan is not a bundle: it has no manifest.json; make one with: caan-export model.pt");
    CHECK(opened == untouched);

    caan_options options;
    caan_options_init(&options);
    options.device = "cuda";
    if (caan_open(data("model.caan").c_str(), &options, &opened) != CAAN_OK) {
        CHECK(caan_open(data("model.caan").c_str(), &options, &opened) == CAAN_MISSING);
        CHECK(has(message(), "the device 'cuda' can't be used: "));
        CHECK(opened == untouched);
    } else {
        caan_close(opened);
    }

    caan_hit hit = {77, 7.0F};
    CHECK(caan_search(handles.retriever, "w1", handles.images, 0, &hit) == CAAN_INPUT);
    CHECK(message() == "k is 0, the gallery has 300 items; ask for 1 to 300");
    CHECK(caan_search(handles.retriever, "zebra", handles.images, 1, &hit) == CAAN_INPUT);
    CHECK(caan_search(handles.retriever, "w1", handles.texts, 1, &hit) == CAAN_INPUT);
    CHECK(hit.index == 77);

    float values[12] = {};
    caan_gallery* gallery = nullptr;
    CHECK(caan_encode_images(handles.retriever, values, static_cast<caan_dtype>(9), 1, 1, 12, nullptr, &gallery) ==
          CAAN_INPUT);
    CHECK(message() == "unknown dtype 9");
    CHECK(caan_encode_images(handles.retriever, values, CAAN_FLOAT32, 1, 1, 11, nullptr, &gallery) == CAAN_INPUT);
    CHECK(message() == "features have dimension 11, the model was trained on 12");
    CHECK(gallery == nullptr);
}

TEST_CASE("NULL is refused by name wherever it is not allowed") {
    const Handles handles;
    caan_retriever* retriever = nullptr;
    caan_gallery* gallery = nullptr;
    caan_features* file = nullptr;
    caan_hit hits[2];
    float scores[600];
    const char* captions[] = {"w1", nullptr};
    std::size_t count = 0;
    const std::string bundle = data("model.caan").string();
    const auto refuses = [](int code, const std::string& name) {
        CHECK(code == CAAN_INPUT);
        CHECK(message() == name + " is NULL");
    };
    refuses(caan_open(nullptr, nullptr, &retriever), "path");
    refuses(caan_open(bundle.c_str(), nullptr, nullptr), "retriever");
    refuses(caan_features_open(nullptr, &file), "path");
    refuses(caan_features_open(data("features.npy").c_str(), nullptr), "features");
    refuses(caan_gallery_open(nullptr, &gallery), "folder");
    refuses(caan_gallery_open(data("galleries/float32").c_str(), nullptr), "gallery");
    refuses(caan_encode_images(handles.retriever, nullptr, CAAN_FLOAT32, 1, 1, 12, nullptr, &gallery), "features");
    refuses(caan_encode_images(nullptr, scores, CAAN_FLOAT32, 1, 1, 12, nullptr, &gallery), "retriever");
    refuses(caan_encode_images(handles.retriever, scores, CAAN_FLOAT32, 1, 1, 12, nullptr, nullptr), "gallery");
    refuses(caan_encode_file(handles.retriever, nullptr, nullptr, &gallery), "features");
    refuses(caan_encode_file(nullptr, handles.features, nullptr, &gallery), "retriever");
    refuses(caan_encode_captions(handles.retriever, captions, 2, &gallery), "a caption");
    refuses(caan_encode_captions(handles.retriever, nullptr, 1, &gallery), "captions");
    refuses(caan_encode_captions(nullptr, captions, 1, &gallery), "retriever");
    refuses(caan_search(handles.retriever, nullptr, handles.images, 1, hits), "a caption");
    refuses(caan_search(handles.retriever, "w1", nullptr, 1, hits), "gallery");
    refuses(caan_search(nullptr, "w1", handles.images, 1, hits), "retriever");
    refuses(caan_search(handles.retriever, "w1", handles.images, 1, nullptr), "hits");
    refuses(caan_search_image(handles.retriever, nullptr, CAAN_FLOAT32, 1, 12, handles.texts, 1, hits), "features");
    refuses(caan_search_image(handles.retriever, scores, CAAN_FLOAT32, 1, 12, nullptr, 1, hits), "gallery");
    refuses(caan_search_gallery(handles.retriever, nullptr, handles.images, 1, hits), "queries");
    refuses(caan_search_gallery(handles.retriever, handles.texts, nullptr, 1, hits), "gallery");
    refuses(caan_score_matrix(handles.retriever, handles.images, captions, 1, nullptr), "scores");
    refuses(caan_score_matrix(handles.retriever, nullptr, captions, 1, scores), "images");
    refuses(caan_score_galleries(handles.retriever, handles.images, nullptr, scores), "captions");
    refuses(caan_score_galleries(handles.retriever, nullptr, handles.texts, scores), "images");
    refuses(caan_tokenize(handles.retriever, nullptr, nullptr, 0, &count), "caption");
    refuses(caan_tokenize(nullptr, "w1", nullptr, 0, &count), "retriever");
    refuses(caan_tokenize(handles.retriever, "w1", nullptr, 0, nullptr), "count");
    CHECK((retriever == nullptr && gallery == nullptr && file == nullptr));
}

TEST_CASE("queries about NULL handles answer nothing, and closing them does nothing") {
    caan_close(nullptr);
    caan_gallery_close(nullptr);
    caan_features_close(nullptr);
    caan_options_init(nullptr);
    CHECK(caan_region_dim(nullptr) == 0);
    CHECK(caan_backend(nullptr) == std::string());
    CHECK(caan_device(nullptr) == std::string());
    CHECK(caan_features_images(nullptr) == 0);
    CHECK(caan_gallery_size(nullptr) == 0);
    CHECK(caan_gallery_live(nullptr) == 0);
    CHECK(caan_gallery_id(nullptr, 0) == nullptr);
    CHECK(caan_buffer_growths(nullptr) == 0);
}

TEST_CASE("each thread has its own message, empty before its first error") {
    caan_retriever* opened = nullptr;
    CHECK(caan_open("/nowhere.caan", nullptr, &opened) == CAAN_INPUT);
    const std::string mine = message();
    std::string before, after;
    std::thread other([&] {
        before = message();
        caan_open("/elsewhere.caan", nullptr, &opened);
        after = message();
    });
    other.join();
    CHECK(before.empty());
    CHECK(has(after, "/elsewhere.caan is not a bundle"));
    CHECK(message() == mine);
}

TEST_CASE("warnings reach the caller's function with its context, and options of an earlier version are accepted") {
    struct Seen {
        std::vector<std::string> messages;
    } seen;
    caan_options options;
    std::memset(&options, 0, sizeof options); // filled with zeros, without caan_options_init
    options.device = "cpu";
    options.warn_context = &seen;
    options.warn = [](const char* text, void* context) { static_cast<Seen*>(context)->messages.push_back(text); };
    caan_retriever* opened = nullptr;
    REQUIRE(caan_open(data("model.caan").c_str(), &options, &opened) == CAAN_OK);
    caan_gallery* gallery = nullptr;
    const char* unknown = "zebra";
    REQUIRE(caan_encode_captions(opened, &unknown, 1, &gallery) == CAAN_OK);
    CHECK(seen.messages ==
          std::vector<std::string>{"caption 0 is without any word of the vocabulary; the scores mean little"});
    caan_gallery_close(gallery);
    caan_close(opened);

    options.struct_size = offsetof(caan_options, threads); // a version that ended before threads
    options.threads = -5;
    REQUIRE(caan_open(data("model.caan").c_str(), &options, &opened) == CAAN_OK);
    caan_close(opened);
}
