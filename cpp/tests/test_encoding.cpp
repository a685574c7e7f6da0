/// Encoding: features and captions of every kind, warnings and refusals.
#include <algorithm>
#include <cmath>
#include <limits>

#include "helpers.hpp"

using namespace caan_test;
using caan::Features;
using caan::Gallery;

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

TEST_CASE("truncated captions and unknown words are used with a warning") {
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
    REQUIRE(warnings == std::vector<std::string>{"caption 0 is longer than 126 words; further words were dropped"});
    const auto whole = warning.search(most, images(), 6);
    CHECK(indices(cut) == indices(whole));
    warnings.clear();
    warning.encode_captions({"w1", "a", "b", "c", "d"});
    REQUIRE(warnings == std::vector<std::string>{
                            "4 captions (1, 2, 3, …) are without any word of the vocabulary; the scores mean little"});
    warnings.clear();
    warning.encode_captions({"w1", "w1 A. b a."});
    REQUIRE(warnings == std::vector<std::string>{"caption 1: the vocabulary lacks 'a.', 'b', counted as unknown"});
    const auto ids = warning.tokenize(most + beyond);
    CHECK(ids.size() == 128);
    CHECK(ids.back() == 2);
}

TEST_CASE("several captions in place of one caption's tokens") {
    const caan::Caption captions(std::vector<std::string>{"w1 w2", "w3"});
    const std::string message = refused<caan::DataError>([&] { retriever().search(captions, images(), 1); });
    CHECK(message.rfind("a list is the tokens of one caption, and 'w1 w2' is several words; several captions", 0) == 0);
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
