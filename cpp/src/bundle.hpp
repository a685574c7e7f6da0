/// The bundle: a folder of ONNX graphs, vocabulary and manifest, read and verified as in bundle.py.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <caan/caan.hpp>

#include "json.hpp"

namespace caan::detail {

/// The manifest's sizes used by the runtime, all 1 or more.
struct Sizes {
    std::int64_t region_dim, embed_dim, attention_dim, vocab_size;
    std::int64_t most_regions, most_words;
    bool is_normalized; // regions have the length 1

    /// Columns of an item's state: `[V | VK | VQ1 | VQ2 | VQ6]` of an image, `[U | UQ3 | UQ4 | UQ5]` of a text.
    std::int64_t state_width(Kind kind) const noexcept {
        return (kind == Kind::image ? 2 : 1) * embed_dim + 3 * attention_dim;
    }
    std::int64_t longest(Kind kind) const noexcept { return kind == Kind::image ? most_regions : most_words; }
};

/// An opened bundle. Hashing its files takes as long as opening its graphs, so each is verified on first use, by the
/// thread that uses it, while other threads open other graphs.
class Bundle {
public:
    std::string folder;
    OrderedJson manifest;
    Sizes sizes;

    /// Throws BundleError, naming the file, if the folder is not a bundle or has a newer format version, or if a file
    /// is missing, has another size, or is outside the bundle.
    explicit Bundle(const std::string& path);

    /// Throws BundleError, naming the bundle's precisions, if this one is missing.
    void require_precision(const std::string& precision) const;
    /// The verified bytes of a listed file: the bytes checked are the bytes used. Throws BundleError. Threads may share
    /// it.
    std::string content(const std::string& file) const;
    /// The path of a listed file that has the manifest's hash. Throws BundleError. Threads may share it.
    std::string verified(const std::string& file) const;
    /// Compare every file with its hash. Throws BundleError for the first mismatch in the manifest's order.
    void verify() const;
    /// SHA-256 of a file, as the manifest gives it.
    std::string hash_of(const std::string& file) const;
    std::string path(const std::string& file) const { return folder + "/" + file; }

private:
    Bundle(std::string path, const std::string& text); // of the manifest

    std::map<std::string, std::shared_future<void>> checks_; // each run by the first thread that waits for it
    mutable std::mutex reading_;
    mutable std::set<std::string> read_; // verified files
};

inline constexpr const char* VOCABULARY_FILE = "vocab.json";
inline constexpr const char* GRAPHS[] = {"image_encoder", "text_encoder", "scorer"};

/// Whether a manifest has a checksum, or its predecessor, a seal. The oldest ones have neither.
bool is_sealed(const OrderedJson& manifest);

/// A graph's path inside a bundle.
std::string graph_file(const std::string& name, const std::string& precision);

/// Call `read` with the bundle, then verify the files it did not use. Repeats if the bundle was replaced meanwhile.
/// Throws as `Bundle` and its `verify`, and whatever `read` throws for a bundle that was not replaced.
void from_bundle(const std::string& folder, const std::function<void(const Bundle&)>& read);

/// The validated content of a manifest read from `path`. Throws BundleError.
OrderedJson parse_manifest(const std::string& content, const std::string& path);

/// The sizes of a validated manifest.
Sizes sizes_of(const OrderedJson& manifest);

/// Throws BundleError if a file of a validated manifest is missing, has another size, or is outside the folder.
void check_files(const std::string& folder, const OrderedJson& manifest);

} // namespace caan::detail
