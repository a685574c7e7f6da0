/// The bundle: a folder of ONNX graphs, vocabulary and manifest, read and verified as bundle.py does.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <caan/caan.hpp>

#include "json.hpp"

namespace caan::detail {

/// The manifest's sizes that the runtime relies on, all 1 or more.
struct Sizes {
    std::int64_t region_dim, embed_dim, attention_dim, vocab_size;
    std::int64_t most_regions, most_words;

    /// Columns of an item's state: `[V | VK | VQ1 | VQ2 | VQ6]` of an image, `[U | UQ3 | UQ4 | UQ5]` of a text.
    std::int64_t state_width(Kind kind) const noexcept {
        return (kind == Kind::image ? 2 : 1) * embed_dim + 3 * attention_dim;
    }
    std::int64_t longest(Kind kind) const noexcept { return kind == Kind::image ? most_regions : most_words; }
};

/// An opened bundle whose files are those of its manifest.
struct Bundle {
    std::string folder;
    OrderedJson manifest;
    Sizes sizes;

    /// The path of one ONNX graph. Throws BundleError, naming what there is, if the precision is not there.
    std::string graph(const std::string& name, const std::string& precision) const;
    /// SHA-256 of a file, as the manifest gives it.
    std::string hash_of(const std::string& file) const;
    std::string path(const std::string& file) const { return folder + "/" + file; }
};

inline constexpr const char* VOCABULARY_FILE = "vocab.json";
inline constexpr const char* GRAPHS[] = {"image_encoder", "text_encoder", "scorer"};

/// A graph's path inside a bundle.
std::string graph_file(const std::string& name, const std::string& precision);

/// Open a bundle and verify every file against the manifest. Throws BundleError, naming the file, if the folder is no
/// bundle, is of a newer format version, or a file is missing, changed, or named outside the bundle.
Bundle open_bundle(const std::string& folder);

/// Call `read` with the bundle; again, if the bundle was replaced while its files were being read.
/// Throws as `open_bundle`, and what `read` throws of a bundle that is still there.
void from_bundle(const std::string& folder, const std::function<void(const Bundle&)>& read);

/// The checked content of a manifest that was read from `path`. Throws BundleError.
OrderedJson parse_manifest(const std::string& content, const std::string& path);

/// The sizes of a checked manifest.
Sizes sizes_of(const OrderedJson& manifest);

/// Compare every file of a checked manifest with its hash. Throws BundleError.
void verify_files(const std::string& folder, const OrderedJson& manifest);

} // namespace caan::detail
