/// Searching: order, deleted items, both directions, and refused searches.
#include <algorithm>
#include <cmath>

#include "helpers.hpp"

using namespace caan_test;
using caan::Gallery;
using caan::Hit;

TEST_CASE("deleted items are never found, and k counts live items") {
    const caan::Retriever& each = each_retriever();
    const Gallery gallery = Gallery::open(data("galleries/deleted"));
    const auto hits = each.search(captions()[0], gallery, 295);
    std::vector<std::int64_t> found = indices(hits);
    std::sort(found.begin(), found.end());
    for (const std::size_t item : deleted()) {
        CHECK_FALSE(std::binary_search(found.begin(), found.end(), static_cast<std::int64_t>(item)));
    }
    CHECK(std::unique(found.begin(), found.end()) == found.end());
    CHECK(std::is_sorted(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) { return a.score > b.score; }));
    CHECK(refused<caan::DataError>([&] { each.search("w1", gallery, 296); }) ==
          "k is 296, the gallery has 295 items; ask for 1 to 295");
    // As queries they have no hits.
    const auto by_image = each.search_many(gallery, Gallery::open(data("galleries/texts")), 2);
    REQUIRE(by_image.size() == 300);
    CHECK(by_image[7].empty());
    CHECK(by_image[10].size() == 2);
}

TEST_CASE("images search captions as captions search images") {
    const caan::Retriever& each = each_retriever();
    const Gallery texts = each.encode_captions(caption_list());
    const caan::Matrix scores = each.score_matrix(images(), texts);
    const auto hits = each.search_many(images(), texts, 40);
    for (const std::size_t i : {std::size_t{0}, std::size_t{150}, std::size_t{299}}) {
        for (const Hit& hit : hits[i]) {
            CHECK(std::abs(hit.score - scores(i, static_cast<std::size_t>(hit.index))) < 2e-6F);
        }
    }
    // All five regions: a single image has no lengths.
    const Gallery whole = each.encode_images(features());
    CHECK(indices(each.search(features().image(5), texts, 3)) == indices(each.search_many(whole, texts, 3)[5]));
    CHECK_THROWS_AS(features().image(300), std::out_of_range);
}

TEST_CASE("hits are ordered by score, equal ones by index") {
    const caan::Retriever& each = each_retriever();
    std::vector<float> copies;
    const auto* first = static_cast<const float*>(features().data);
    for (int i = 0; i < 70; ++i) { // more than one encoder call
        copies.insert(copies.end(), first, first + 60);
    }
    const auto hits = each.search("w1 w2 w3", each.encode_images({copies.data(), 70, 5, 12}), 70);
    // The same image in other places of a tile may differ in its last bit.
    CHECK(hits.front().score - hits.back().score < 1e-6F);
    CHECK(std::is_sorted(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) {
        return a.score > b.score || (a.score == b.score && a.index < b.index);
    }));
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
