/// Scores equal Python's, whatever the tiles, threads, gallery or precision.
#include <algorithm>
#include <cmath>

#include "helpers.hpp"

using namespace caan_test;
using caan::Gallery;

TEST_CASE("scores and hits are Python's") {
    const caan::Retriever& each = each_retriever();
    CHECK(difference(each.score_matrix(images(), caption_list())) <= 1e-5F);
    const auto hits = each.search_many(caption_list(), images(), 10);
    REQUIRE(hits.size() == captions().size());
    for (std::size_t i = 0; i < hits.size(); ++i) {
        CHECK(indices(hits[i]) == expected()["hits"][i].get<std::vector<std::int64_t>>());
        CHECK(indices(each.search(captions()[i], images(), 10)) == indices(hits[i]));
    }
}

TEST_CASE("any tile size, threads and workers give the same scores") {
    caan::Options options = quiet();
    options.backend = GENERATE(as<std::string>{}, "native", "onnxruntime");
    options.tile_bytes = GENERATE(std::size_t{1}, std::size_t{20'000}, std::size_t{1} << 20);
    options.workers = GENERATE(0, 2);
    options.threads = GENERATE(1, 3);
    const caan::Retriever other = caan::Retriever::open(data("model.caan"), options);
    CHECK(difference(other.score_matrix(images(), caption_list())) <= 1e-5F);
    CHECK(difference(other.score_matrix(Gallery::open(data("galleries/compact32")), caption_list())) <= 1e-5F);
}

TEST_CASE("galleries on disk, of each kind") {
    const caan::Retriever& each = each_retriever();
    const auto score = [&](const std::string& name) {
        return each.score_matrix(Gallery::open(data("galleries/" + name)), caption_list());
    };
    CHECK(difference(score("float32")) <= 1e-5F);
    CHECK(difference(score("compact32")) <= 1e-5F);
    const float half = difference(score("float16")), compact = difference(score("compact"));
    CHECK((half > 0 && half < 5e-3F));
    CHECK((compact > 0 && compact < 5e-3F));
    for (const char* name : {"bfloat16", "int8", "compact8"}) {
        const float small = difference(score(name));
        CHECK((small > 0 && small < 2e-2F));
    }
    CHECK(difference(score("deleted"), deleted()) <= 1e-5F);
    CHECK(difference(each.score_matrix(images(), Gallery::open(data("galleries/texts")))) <= 1e-5F);
    CHECK(difference(each.score_matrix(images(), Gallery::open(data("galleries/texts8")))) <= 2e-2F);
}

TEST_CASE("a loaded gallery scores as the one on disk") {
    const caan::Retriever& each = each_retriever();
    for (const char* name : {"galleries/float16", "galleries/compact", "galleries/deleted", "galleries/bfloat16",
                             "galleries/int8", "galleries/compact8"}) {
        const Gallery gallery = Gallery::open(data(name)), loaded = each.load(gallery);
        const caan::Matrix a = each.score_matrix(gallery, caption_list());
        const caan::Matrix b = each.score_matrix(loaded, caption_list());
        // Not a difference: both may be -infinity.
        CHECK(std::equal(a.values.begin(), a.values.end(), b.values.begin(),
                         [](float x, float y) { return x == y || std::abs(x - y) < 2e-6F; }));
        CHECK(*loaded.ids() == *gallery.ids());
        CHECK(loaded.live() == gallery.live());
    }
}

TEST_CASE("padded regions are ignored") {
    const auto* values = static_cast<const float*>(features().data);
    std::vector<float> padded(values, values + 60);
    std::fill(padded.begin() + 24, padded.end(), 1e9F);
    const Gallery two = retriever().encode_images({values, 1, 2, 12});
    const Gallery of_five = retriever().encode_images({padded.data(), 1, 5, 12}, {2});
    const caan::Retriever& each = each_retriever();
    const float a = each.score_matrix(two, {"w1 w2"})(0, 0), b = each.score_matrix(of_five, {"w1 w2"})(0, 0);
    CHECK(std::abs(a - b) < 2e-6F);
}

TEST_CASE("half-precision graphs") {
    caan::Options options = quiet();
    options.precision = "fp16";
    options.backend = GENERATE(as<std::string>{}, "native", "onnxruntime");
    const caan::Retriever half = caan::Retriever::open(data("model.caan"), options);
    const Gallery gallery = half.encode_images(features(), lengths());
    const float largest = difference(half.score_matrix(gallery, caption_list()));
    CHECK((largest > 0 && largest < 5e-3F));
    CHECK(refused([&] { half.search("w1", images(), 1); }) == "this gallery was made with another model or precision; "
                                                              "open the bundle in that precision, or encode again: caan"
                                                              " index");
}
