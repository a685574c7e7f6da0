/// caan-search-cpp BUNDLE FEATURES.npy "caption" [K]: the K images, 10 by default, that fit a caption best.
#include <algorithm>
#include <cctype>
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

/// A message may quote a caption or a file's name: what a terminal would obey is left out.
int fail(std::string message, int code) {
    const auto is_control = [](unsigned char byte) { return std::iscntrl(byte) != 0; };
    std::replace_if(message.begin(), message.end(), is_control, '?');
    (void)std::fprintf(stderr, "%s\n", message.c_str());
    return code;
}

} // namespace

int main(int count, char** arguments) {
    const long k = count == 5 ? std::strtol(arguments[4], nullptr, 10) : 10; // 0 if it is no number
    if (count < 4 || count > 5 || k < 1) {
        return fail("Usage: caan-search-cpp BUNDLE FEATURES.npy \"caption\" [K]", 2);
    }
    try {
        search(arguments[1], arguments[2], arguments[3], static_cast<std::size_t>(k));
    } catch (const caan::Error& error) {
        return fail(std::string("Error: ") + error.what(), error.exit_code());
    } catch (const std::exception& error) {
        return fail(std::string("Error: ") + error.what(), 1);
    }
}
