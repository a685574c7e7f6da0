/// A manifest is read, or refused with a BundleError; its file names never lead outside the bundle.
#include <filesystem>
#include <string>

#include "bundle.hpp"

namespace {

/// An empty folder: every file in a manifest is missing, or outside.
const std::string& empty_folder() {
    static const std::string folder = [] {
        const auto path = std::filesystem::temp_directory_path() / "caan-fuzz-empty";
        std::filesystem::create_directories(path);
        return path.string();
    }();
    return folder;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const std::string content(reinterpret_cast<const char*>(data), size);
        const caan::detail::OrderedJson manifest = caan::detail::parse_manifest(content, "manifest.json");
        const caan::detail::Sizes sizes = caan::detail::sizes_of(manifest);
        if (sizes.state_width(caan::Kind::image) <= 0 || sizes.state_width(caan::Kind::text) <= 0) {
            __builtin_trap(); // sizes whose products overflow were accepted
        }
        caan::detail::check_files(empty_folder(), manifest);
        __builtin_trap(); // vocab.json is missing
    } catch (const caan::BundleError&) {
    }
    return 0;
}
