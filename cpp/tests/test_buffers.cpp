/// Tile buffers grow only once.
#include "helpers.hpp"

using namespace caan_test;
using caan::Gallery;

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
