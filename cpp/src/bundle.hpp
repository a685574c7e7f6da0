/// The bundle: a folder of ONNX graphs, vocabulary and manifest, read and verified as bundle.py does.
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

/// The manifest's sizes that the runtime relies on, all 1 or more.
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

/// An opened bundle. Hashing its files takes as long as opening its graphs: each is compared with its hash when it is
/// first asked for, by the thread that asks, so that the others are opened meanwhile.
class Bundle {
public:
    std::string folder;
    OrderedJson manifest;
    Sizes sizes;

    /// Throws BundleError, naming the file, if the folder is not a bundle, is of a newer format version, or a file is
    /// missing, of another size, or named outside the bundle.
    explicit Bundle(const std::string& path);

    /// Throws BundleError, naming what there is, if the precision is not there.
    void require_precision(const std::string& precision) const;
    /// The bytes of a listed file, which have the manifest's hash: what is checked is what is used. Throws BundleError.
    /// Threads may share it.
    std::string content(const std::string& file) const;
    /// The path of a listed file that has the manifest's hash. Throws BundleError. Threads may share it.
    std::string verified(const std::string& file) const;
    /// Compare every file with its hash. Throws BundleError of the first in the manifest's order that differs.
    void verify() const;
    /// SHA-256 of a file, as the manifest gives it.
    std::string hash_of(const std::string& file) const;
    std::string path(const std::string& file) const { return folder + "/" + file; }

private:
    Bundle(std::string path, const std::string& text); // of the manifest

    std::map<std::string, std::shared_future<void>> checks_; // each done by who first waits for it
    mutable std::mutex reading_;
    mutable std::set<std::string> read_; // files whose content was compared
};

inline constexpr const char* VOCABULARY_FILE = "vocab.json";
inline constexpr const char* GRAPHS[] = {"image_encoder", "text_encoder", "scorer"};

/// Whether a manifest holds a checksum, or the seal that was its forerunner. The oldest ones hold neither.
bool is_sealed(const OrderedJson& manifest);

/// A graph's path inside a bundle.
std::string graph_file(const std::string& name, const std::string& precision);

/// Call `read` with the bundle, and verify what it did not ask for; again, if the bundle was replaced while its files
/// were being read. Throws as `Bundle` and its `verify`, and what `read` throws of a bundle that is still there.
void from_bundle(const std::string& folder, const std::function<void(const Bundle&)>& read);

/// The checked content of a manifest that was read from `path`. Throws BundleError.
OrderedJson parse_manifest(const std::string& content, const std::string& path);

/// The sizes of a checked manifest.
Sizes sizes_of(const OrderedJson& manifest);

/// Throws BundleError if a file of a checked manifest is missing, of another size, or named outside the folder.
void check_files(const std::string& folder, const OrderedJson& manifest);

} // namespace caan::detail
