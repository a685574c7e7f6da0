/// caan-search-cpp BUNDLE FEATURES.npy|GALLERY "caption" [K]: the K best images for a caption, 10 by default, from a
/// file of features or a gallery written by `caan index`.
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <caan/caan.hpp>

namespace {

caan::Gallery gallery_of(const caan::Retriever& retriever, const std::string& path) {
    if (std::filesystem::is_directory(path)) {
        return caan::Gallery::open(path);
    }
    const caan::FeatureFile file = caan::FeatureFile::open(path); // (images, regions, F), memory-mapped
    return retriever.encode_images(file.features());
}

/// Captions, ids and file names may contain control characters: they are left out.
std::string shown(std::string text) {
    const auto is_control = [](unsigned char byte) { return std::iscntrl(byte) != 0; };
    std::replace_if(text.begin(), text.end(), is_control, '?');
    return text;
}

void search(const std::string& bundle, const std::string& images, const std::string& caption, std::size_t k) {
    const caan::Retriever retriever = caan::Retriever::open(bundle);
    const caan::Gallery gallery = gallery_of(retriever, images);
    int rank = 0;
    for (const caan::Hit& hit : retriever.search(caption, gallery, std::min(k, gallery.live()))) {
        std::printf("%3d  %8.4f  %lld", ++rank, static_cast<double>(hit.score), static_cast<long long>(hit.index));
        if (gallery.ids() != nullptr) {
            std::printf("  %s", shown((*gallery.ids())[static_cast<std::size_t>(hit.index)]).c_str());
        }
        std::printf("\n");
    }
}

int fail(const std::string& message, int code) {
    (void)std::fprintf(stderr, "%s\n", shown(message).c_str());
    return code;
}

} // namespace

int main(int count, char** arguments) {
    const long k = count == 5 ? std::strtol(arguments[4], nullptr, 10) : 10; // 0 if it is not a number
    if (count < 4 || count > 5 || k < 1) {
        return fail("Usage: caan-search-cpp BUNDLE FEATURES.npy|GALLERY \"caption\" [K]", 2);
    }
    try {
        search(arguments[1], arguments[2], arguments[3], static_cast<std::size_t>(k));
    } catch (const caan::Error& error) {
        return fail(std::string("Error: ") + error.what(), error.exit_code());
    } catch (const std::exception& error) {
        return fail(std::string("Error: ") + error.what(), 1);
    }
}
