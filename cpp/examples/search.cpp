/// caan-search-cpp BUNDLE FEATURES.npy|GALLERY "caption" [K] [--recall R|--candidates N]: the K best images for a
/// caption, 10 by default, from a file of features or a gallery written by `caan index`; of a gallery with sketches,
/// those among its most promising images.
#include <algorithm>
#include <cctype>
#include <cmath>
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

/// Items that were scored, and the measured recall of that number.
void print_cost(const caan::Found& found) {
    if (!found.candidates) {
        return;
    }
    std::printf("%zu candidates", *found.candidates);
    if (found.recall) {
        std::printf(", recall %.3f (%.3f to %.3f)", found.recall->value, found.recall->low, found.recall->high);
    }
    std::printf("\n");
}

void search(const std::string& bundle, const std::string& images, const std::string& caption, caan::Search how) {
    const caan::Retriever retriever = caan::Retriever::open(bundle);
    const caan::Gallery gallery = gallery_of(retriever, images);
    how.k = std::min(how.k, gallery.live());
    const caan::Found found = retriever.search(caption, gallery, how);
    int rank = 0;
    for (const caan::Hit& hit : found.hits) {
        std::printf("%3d  %8.4f  %lld", ++rank, static_cast<double>(hit.score), static_cast<long long>(hit.index));
        if (gallery.ids() != nullptr) {
            std::printf("  %s", shown((*gallery.ids())[static_cast<std::size_t>(hit.index)]).c_str());
        }
        std::printf("\n");
    }
    print_cost(found);
}

/// The options behind the caption. False if they are not understood.
bool parse(int count, char** arguments, caan::Search& how) {
    how.k = 10;
    for (int i = 4; i < count; ++i) {
        const std::string name = arguments[i];
        const bool is_named = name == "--recall" || name == "--candidates";
        if (is_named && ++i == count) {
            return false;
        }
        char* end = nullptr;
        const double value = std::strtod(arguments[i], &end);
        const bool is_count = value >= 1 && value < 1e12 && std::floor(value) == value;
        if (end == arguments[i] || *end != '\0' || (name != "--recall" && !is_count)) {
            return false;
        }
        if (name == "--recall") {
            how.recall = value;
        } else {
            (name == "--candidates" ? how.candidates.emplace() : how.k) = static_cast<std::size_t>(value);
        }
    }
    return count >= 4;
}

int fail(const std::string& message, int code) {
    (void)std::fprintf(stderr, "%s\n", shown(message).c_str());
    return code;
}

} // namespace

int main(int count, char** arguments) {
    caan::Search how;
    if (!parse(count, arguments, how)) {
        return fail("Usage: caan-search-cpp BUNDLE FEATURES.npy|GALLERY \"caption\" [K] [--recall R|--candidates N]",
                    2);
    }
    try {
        search(arguments[1], arguments[2], arguments[3], how);
    } catch (const caan::Error& error) {
        return fail(std::string("Error: ") + error.what(), error.exit_code());
    } catch (const std::exception& error) {
        return fail(std::string("Error: ") + error.what(), 1);
    }
}
