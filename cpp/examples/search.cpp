/// caan-search-cpp BUNDLE FEATURES.npy "caption" [K]: the K images, 10 by default, that fit a caption best.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <caan/caan.hpp>

namespace {

void search(const std::string& bundle, const std::string& features, const std::string& caption, std::size_t k) {
    const caan::Retriever retriever = caan::Retriever::open(bundle);
    const caan::FeatureFile file = caan::FeatureFile::open(features); // (images, regions, F), memory-mapped
    const caan::Gallery gallery = retriever.encode_images(file.features());
    int rank = 0;
    for (const caan::Hit& hit : retriever.search(caption, gallery, std::min(k, gallery.size()))) {
        std::printf("%3d  %8.4f  %lld\n", ++rank, static_cast<double>(hit.score), static_cast<long long>(hit.index));
    }
}

} // namespace

int main(int count, char** arguments) {
    const int k = count == 5 ? std::atoi(arguments[4]) : 10;
    if (count < 4 || count > 5 || k < 1) {
        std::fprintf(stderr, "Usage: caan-search-cpp BUNDLE FEATURES.npy \"caption\" [K]\n");
        return 2;
    }
    try {
        search(arguments[1], arguments[2], arguments[3], static_cast<std::size_t>(k));
    } catch (const caan::Error& error) {
        std::fprintf(stderr, "Error: %s\n", error.what());
        return error.exit_code();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "Error: %s\n", error.what());
        return 1;
    }
}
