/// Encoding, searching and scoring: Python's numbers, shapes, warnings and refusals.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "helpers.hpp"

using namespace caan_test;
using caan::Features;
using caan::Gallery;
using caan::Hit;

namespace {

using Rows = std::vector<std::vector<float>>;

std::vector<std::int64_t> indices(const std::vector<Hit>& hits) {
    std::vector<std::int64_t> found;
    for (const Hit& hit : hits) {
        found.push_back(hit.index);
    }
    return found;
}

const Gallery& images() {
    static const Gallery gallery = retriever().encode_images(features(), lengths());
    return gallery;
}

/// The largest difference to Python's scores; items that `skip` names must be -infinity.
float difference(const caan::Matrix& found, const std::vector<std::size_t>& skip = {}) {
    static const Rows expected_scores = expected()["scores"].get<Rows>();
    REQUIRE(found.rows == expected_scores.size());
    REQUIRE(found.columns == expected_scores[0].size());
    float largest = 0;
    int wrong = 0;
    for (std::size_t i = 0; i < found.rows; ++i) {
        const bool is_skipped = std::find(skip.begin(), skip.end(), i) != skip.end();
        for (std::size_t j = 0; j < found.columns; ++j) {
            const float score = found(i, j);
            const bool is_good = is_skipped ? score == -std::numeric_limits<float>::infinity() : std::isfinite(score);
            wrong += is_good ? 0 : 1;
            largest = is_skipped ? largest : std::max(largest, std::abs(score - expected_scores[i][j]));
        }
    }
    REQUIRE(wrong == 0);
    return largest;
}

std::vector<std::size_t> deleted() { return expected()["deleted"].get<std::vector<std::size_t>>(); }

} // namespace

TEST_CASE("scores and hits are Python's") {
    CHECK(difference(retriever().score_matrix(images(), caption_list())) <= 1e-5F);
    const auto hits = retriever().search_many(caption_list(), images(), 10);
    REQUIRE(hits.size() == captions().size());
    for (std::size_t i = 0; i < hits.size(); ++i) {
        CHECK(indices(hits[i]) == expected()["hits"][i].get<std::vector<std::int64_t>>());
        CHECK(indices(retriever().search(captions()[i], images(), 10)) == indices(hits[i]));
    }
}

TEST_CASE("any tile size, threads and workers give the same scores") {
    caan::Options options = quiet();
    options.tile_bytes = GENERATE(std::size_t{1}, std::size_t{20'000}, std::size_t{1} << 20);
    options.workers = GENERATE(0, 2);
    options.threads = GENERATE(1, 3);
    const caan::Retriever other = caan::Retriever::open(data("model.caan"), options);
    CHECK(difference(other.score_matrix(images(), caption_list())) <= 1e-5F);
}

TEST_CASE("galleries on disk, of each kind") {
    const auto score = [](const std::string& name) {
        return retriever().score_matrix(Gallery::open(data("galleries/" + name)), caption_list());
    };
    CHECK(difference(score("float32")) <= 1e-5F);
    CHECK(difference(score("compact32")) <= 1e-5F);
    const float half = difference(score("float16")), compact = difference(score("compact"));
    CHECK((half > 0 && half < 5e-3F));
    CHECK((compact > 0 && compact < 5e-3F));
    CHECK(difference(score("deleted"), deleted()) <= 1e-5F);
    CHECK(difference(retriever().score_matrix(images(), Gallery::open(data("galleries/texts")))) <= 1e-5F);
}

TEST_CASE("a loaded gallery scores as the one on disk") {
    for (const char* name : {"galleries/float16", "galleries/compact", "galleries/deleted"}) {
        const Gallery gallery = Gallery::open(data(name)), loaded = retriever().load(gallery);
        const caan::Matrix a = retriever().score_matrix(gallery, caption_list());
        const caan::Matrix b = retriever().score_matrix(loaded, caption_list());
        // Not a difference: both may be -infinity.
        CHECK(std::equal(a.values.begin(), a.values.end(), b.values.begin(),
                         [](float x, float y) { return x == y || std::abs(x - y) < 2e-6F; }));
        CHECK(*loaded.ids() == *gallery.ids());
        CHECK(loaded.live() == gallery.live());
    }
}

TEST_CASE("deleted items are never found, and k counts what is left") {
    const Gallery gallery = Gallery::open(data("galleries/deleted"));
    const auto hits = retriever().search(captions()[0], gallery, 295);
    std::vector<std::int64_t> found = indices(hits);
    std::sort(found.begin(), found.end());
    for (const std::size_t item : deleted()) {
        CHECK_FALSE(std::binary_search(found.begin(), found.end(), static_cast<std::int64_t>(item)));
    }
    CHECK(std::unique(found.begin(), found.end()) == found.end());
    CHECK(std::is_sorted(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) { return a.score > b.score; }));
    CHECK(refused<caan::DataError>([&] { retriever().search("w1", gallery, 296); }) ==
          "k is 296, the gallery has 295 items; ask for 1 to 295");
    // As queries they find nothing.
    const auto by_image = retriever().search_many(gallery, Gallery::open(data("galleries/texts")), 2);
    REQUIRE(by_image.size() == 300);
    CHECK(by_image[7].empty());
    CHECK(by_image[10].size() == 2);
}

TEST_CASE("images search captions as captions search images") {
    const Gallery texts = retriever().encode_captions(caption_list());
    const caan::Matrix scores = retriever().score_matrix(images(), texts);
    const auto hits = retriever().search_many(images(), texts, 40);
    for (const std::size_t i : {std::size_t{0}, std::size_t{150}, std::size_t{299}}) {
        for (const Hit& hit : hits[i]) {
            CHECK(std::abs(hit.score - scores(i, static_cast<std::size_t>(hit.index))) < 2e-6F);
        }
    }
    // All five regions: one image alone has no lengths.
    const Gallery whole = retriever().encode_images(features());
    CHECK(indices(retriever().search(features().image(5), texts, 3)) ==
          indices(retriever().search_many(whole, texts, 3)[5]));
    CHECK_THROWS_AS(features().image(300), std::out_of_range);
}

TEST_CASE("hits are ordered by score, equal ones by index") {
    std::vector<float> copies;
    const auto* first = static_cast<const float*>(features().data);
    for (int i = 0; i < 70; ++i) { // more than one encoder call
        copies.insert(copies.end(), first, first + 60);
    }
    const auto hits = retriever().search("w1 w2 w3", retriever().encode_images({copies.data(), 70, 5, 12}), 70);
    // The same image in other places of a tile may differ in its last bit.
    CHECK(hits.front().score - hits.back().score < 1e-6F);
    CHECK(std::is_sorted(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) {
        return a.score > b.score || (a.score == b.score && a.index < b.index);
    }));
}

TEST_CASE("features of any float type, aligned or not") {
    const auto* values = static_cast<const float*>(features().data);
    const std::vector<double> wide(values, values + 6 * 60);
    std::vector<char> shifted(6 * 60 * sizeof(float) + 1);
    std::copy_n(reinterpret_cast<const char*>(values), shifted.size() - 1, shifted.data() + 1);
    const Gallery expected_gallery = retriever().encode_images({values, 6, 5, 12});
    const caan::Matrix scores = retriever().score_matrix(expected_gallery, caption_list());
    for (const Features& view : {Features(wide.data(), {6, 5, 12}, caan::Dtype::float64),
                                 Features(shifted.data() + 1, {6, 5, 12}, caan::Dtype::float32)}) {
        CHECK(retriever().score_matrix(retriever().encode_images(view), caption_list()).values == scores.values);
    }
}

TEST_CASE("padded regions take part in nothing") {
    const auto* values = static_cast<const float*>(features().data);
    std::vector<float> padded(values, values + 60);
    std::fill(padded.begin() + 24, padded.end(), 1e9F);
    const Gallery two = retriever().encode_images({values, 1, 2, 12});
    const Gallery of_five = retriever().encode_images({padded.data(), 1, 5, 12}, {2});
    const float a = retriever().score_matrix(two, {"w1 w2"})(0, 0),
                b = retriever().score_matrix(of_five, {"w1 w2"})(0, 0);
    CHECK(std::abs(a - b) < 2e-6F);
}

TEST_CASE("no buffer grows after the first call of a kind and size") {
    caan::Options options = quiet();
    options.tile_bytes = 100'000; // many tiles
    const caan::Retriever warm = caan::Retriever::open(data("model.caan"), options);
    const std::string name = GENERATE(as<std::string>{}, "float32", "float16", "compact", "compact32");
    const Gallery gallery = Gallery::open(data("galleries/" + name));
    std::vector<float> scores(gallery.size() * captions().size());
    const auto call = [&] {
        warm.score_matrix(gallery, caption_list(), scores.data());
        warm.search_many(caption_list(), gallery, 5);
    };
    call();
    const std::size_t growths = warm.buffer_growths();
    CHECK(growths > 0);
    for (int i = 0; i < 3; ++i) {
        call();
    }
    CHECK(warm.buffer_growths() == growths);
}

TEST_CASE("a first call grows each buffer once, however many tiles it has") {
    const auto growths = [](std::size_t tile_bytes) {
        caan::Options options = quiet();
        options.tile_bytes = tile_bytes;
        options.workers = 1;
        const caan::Retriever fresh = caan::Retriever::open(data("model.caan"), options);
        fresh.score_matrix(Gallery::open(data("galleries/float16")), caption_list());
        return fresh.buffer_growths();
    };
    CHECK(growths(10'000) == growths(std::size_t{64} << 20));
}

TEST_CASE("k out of range") {
    const auto message = [](std::size_t k) {
        return refused<caan::DataError>([&] { retriever().search("w1", images(), k); });
    };
    CHECK(message(0) == "k is 0, the gallery has 300 items; ask for 1 to 300");
    CHECK(message(301) == "k is 301, the gallery has 300 items; ask for 1 to 300");
    CHECK(retriever().search("w1", images(), 300).size() == 300);
    CHECK(refused<caan::DataError>([&] { retriever().search_many({}, images(), 3); }) ==
          "there is no caption; give at least one");
}

TEST_CASE("captions that can't be used") {
    const auto searched = [](const caan::Caption& caption) {
        return refused<caan::DataError>([&] { retriever().search(caption, images(), 1); });
    };
    CHECK(searched("") == "the caption is empty; write at least one word");
    CHECK(searched("zebra Quagga") == "no word of 'zebra Quagga' is in the model's vocabulary; try other words");
    CHECK(searched(std::vector<std::string>{"zebra", "quagga"}) ==
          "no word of 'zebra quagga' is in the model's vocabulary; try other words");
    CHECK(has(searched("caf\xe9 w1"), "'caf\\udce9 w1' is not UTF-8 text"));
    const auto encoded = [](const std::vector<caan::Caption>& texts) {
        return refused<caan::DataError>([&] { retriever().encode_captions(texts); });
    };
    CHECK(encoded({}) == "there is no caption; give at least one");
    CHECK(encoded({"w1", " "}) == "caption 1: the caption is empty; write at least one word");
    CHECK(refused<caan::DataError>([] {
              retriever().encode_captions({"w1"}, {"a", "b"});
          }) == "2 ids don't fit 1 items; give one name per item");
    CHECK(refused<caan::DataError>([] { retriever().score_matrix(images(), std::vector<caan::Caption>{}); }) ==
          "there is no caption; give at least one");
}

TEST_CASE("captions that are cut or unknown are used with a warning") {
    std::vector<std::string> warnings;
    caan::Options options = quiet();
    options.warn = [&](const std::string& message) { warnings.push_back(message); };
    const caan::Retriever warning = caan::Retriever::open(data("model.caan"), options);
    std::string most, beyond;
    for (int i = 0; i < 126; ++i) {
        most += "w1 ";
    }
    for (int i = 0; i < 9'874; ++i) {
        beyond += "w2 ";
    }
    const auto cut = warning.search(most + beyond, images(), 6);
    REQUIRE(warnings == std::vector<std::string>{"caption 0 is longer than 126 words; the words beyond were dropped"});
    const auto whole = warning.search(most, images(), 6);
    CHECK(indices(cut) == indices(whole));
    warnings.clear();
    warning.encode_captions({"w1", "a", "b", "c", "d"});
    REQUIRE(warnings == std::vector<std::string>{
                            "4 captions (1, 2, 3, …) are without any word of the vocabulary; the scores mean little"});
    const auto ids = warning.tokenize(most + beyond);
    CHECK(ids.size() == 128);
    CHECK(ids.back() == 2);
}

TEST_CASE("features that can't be used") {
    std::vector<float> values(3 * 6 * 13);
    const auto message = [&](std::vector<std::size_t> shape, std::vector<std::int64_t> given = {}) {
        const Features view(values.data(), std::move(shape), caan::Dtype::float32);
        return refused<caan::DataError>([&] { retriever().encode_images(view, given); });
    };
    CHECK(message({3, 5, 13}) == "features have dimension 13, the model was trained on 12");
    CHECK(message({5, 12}) == "features must be a float array (images, regions, 12), not (5, 12)");
    CHECK(message({0, 5, 12}) == "there is no image; give at least one");
    const std::string regions = message({3, 0, 12});
    CHECK(has(regions, "features have 0 regions per image, the model takes 1 to "));
    CHECK(message({3, 5, 12}, {1, 2}) == "lengths must be 3 integers, one per image, not int64 (2,)");
    CHECK(message({3, 5, 12}, {1, 2, 6}) == "lengths must be 1 to 5, the regions in the features, not 1 to 6");
    CHECK(message({3, 5, 12}, {0, 2, 5}) == "lengths must be 1 to 5, the regions in the features, not 0 to 5");
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        values.assign(values.size(), 0.5F);
        values[2 * 60 + 13] = bad;
        CHECK(message({3, 5, 12}) ==
              "image 2 can't be encoded: its features hold NaN, infinity or huge values; extract them again");
        CHECK_NOTHROW(retriever().encode_images({values.data(), 3, 5, 12}, {5, 5, 1})); // beyond the length: ignored
    }
    const Gallery texts = retriever().encode_captions({"w1"});
    CHECK(refused<caan::DataError>([&] { retriever().search(features(), texts, 1); }) ==
          "image 0 must be a float array (regions, 12), not float32 (300, 5, 12)");
}

TEST_CASE("galleries of the wrong kind") {
    const Gallery texts = retriever().encode_captions({"w1"});
    CHECK(refused<caan::DataError>([&] { retriever().search("w1", texts, 1); }) ==
          "this gallery holds texts; search it with images' features, not with captions");
    CHECK(refused<caan::DataError>([&] { retriever().search(features().image(0), images(), 1); }) ==
          "this gallery holds images; search it with captions, not with images");
    CHECK(refused<caan::DataError>([&] { retriever().score_matrix(texts, {"w1"}); }) ==
          "this gallery holds text states, image states are needed here");
    CHECK(refused<caan::DataError>([&] { retriever().score_matrix(images(), images()); }) ==
          "this gallery holds image states, text states are needed here");
    CHECK(refused<caan::DataError>([&] { retriever().search_many(images(), images(), 1); }) ==
          "this gallery holds image states, text states are needed here");
}

TEST_CASE("options that are not known, and providers that are not there") {
    const auto message = [](const std::string& backend, const std::string& device, int threads = 0) {
        caan::Options options = quiet();
        options.backend = backend;
        options.device = device;
        options.threads = threads;
        return refused<caan::Error>([&] { caan::Retriever::open(data("model.caan"), options); });
    };
    CHECK(message("torchvision", "auto") == "unknown backend 'torchvision'; known: onnxruntime, tensorrt, auto");
    CHECK(message("auto", "tpu") == "unknown device 'tpu'; known: cpu, cuda, auto");
    CHECK(message("tensorrt", "cpu") ==
          "the backend 'tensorrt' runs on device 'cuda'; on 'cpu' use backend 'onnxruntime'");
    CHECK(has(message("auto", "cpu", -1), "threads and workers must be 0 or more"));
}

TEST_CASE("a provider that is asked for and absent is an error, never the CPU") {
    caan::Options options = quiet();
    options.device = "cuda";
    options.backend = GENERATE(as<std::string>{}, "auto", "onnxruntime", "tensorrt");
    try {
        const caan::Retriever opened = caan::Retriever::open(data("model.caan"), options);
        // On a machine with a GPU and its providers there is nothing to refuse.
        CHECK(opened.device() == "cuda");
    } catch (const caan::MissingError& error) {
        CHECK(error.exit_code() == 4);
        CHECK(has(error.what(), "can't be used: "));
        CHECK(has(error.what(), options.backend == "tensorrt" ? "the backend 'tensorrt'" : "the device 'cuda'"));
    }
}

TEST_CASE("half-precision graphs") {
    caan::Options options = quiet();
    options.precision = "fp16";
    const caan::Retriever half = caan::Retriever::open(data("model.caan"), options);
    const Gallery gallery = half.encode_images(features(), lengths());
    const float largest = difference(half.score_matrix(gallery, caption_list()));
    CHECK((largest > 0 && largest < 5e-3F));
    CHECK(refused([&] { half.search("w1", images(), 1); }) == "this gallery was made with another model or precision; "
                                                              "open the bundle in that precision, or encode again: caan"
                                                              " index");
}

TEST_CASE("a retriever that is moved goes on, and galleries outlive it") {
    auto first = std::make_unique<caan::Retriever>(caan::Retriever::open(data("model.caan"), quiet()));
    const Gallery gallery = first->encode_images(features(), lengths());
    caan::Retriever second = std::move(*first);
    first.reset();
    const auto hits = indices(second.search("w1 w2", gallery, 3));
    second = caan::Retriever::open(data("model.caan"), quiet());
    CHECK(indices(second.search("w1 w2", gallery, 3)) == hits);
}
