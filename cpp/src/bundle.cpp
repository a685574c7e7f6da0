#include "bundle.hpp"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <future>
#include <set>
#include <utility>

#include "checksum.hpp"
#include "files.hpp"
#include "machine.hpp"
#include "text.hpp"

namespace caan::detail {
namespace {

constexpr const char* FORMAT = "caan-bundle";
constexpr std::int64_t VERSION = 1;
constexpr const char* MANIFEST = "manifest.json";
constexpr const char* OLD_SEAL = "seal";
constexpr const char* AGAIN = " copy the bundle again, or export the checkpoint again";
constexpr std::size_t LONGEST_NAME = 255; // bytes
// No model has larger sizes, and their products would overflow.
constexpr std::int64_t LARGEST_SIZE = std::int64_t{1} << 48;

std::string read_manifest(const std::string& folder) {
    const std::string path = folder + "/" + MANIFEST;
    if (!is_file(path)) {
        throw BundleError(folder + " is not a bundle: it has no manifest.json; make one with: caan-export model.pt");
    }
    try {
        return read_file(path);
    } catch (const std::system_error& error) {
        throw BundleError(path + " can't be read as JSON (" + os_error(error, path) + "); export the checkpoint again");
    }
}

/// Whether this names a file inside a folder, ignoring links.
bool is_inside(const std::string& name) {
    // Backslash and colon are separators on Windows; file names have no zero byte and a limited length.
    if (name.rfind('/', 0) == 0 || name.find_first_of(std::string("\\:\0", 3)) != std::string::npos) {
        return false;
    }
    const std::filesystem::path relative(name);
    return std::none_of(relative.begin(), relative.end(), [](const std::filesystem::path& part) {
        return part == ".." || part.native().size() > LONGEST_NAME;
    });
}

void check_file(const std::string& folder, const std::string& name, const OrderedJson& entry) {
    const std::string manifest = folder + "/" + MANIFEST;
    if (!is_inside(name)) {
        std::string shown = shortened(name, 200);
        std::replace(shown.begin(), shown.end(), '\0', ' '); // where the message would end
        throw BundleError(manifest + " names '" + shown + "', outside the bundle; do not trust this bundle");
    }
    if (!member(entry, "sha256").is_string()) {
        throw BundleError(manifest + " has no hash for '" + name + "'; export the checkpoint again");
    }
    const OrderedJson& listed = member(entry, "size");
    if (!is_integer(listed) || listed < 0) {
        throw BundleError(manifest + " has no size for '" + name + "'; export the checkpoint again");
    }
    const std::string path = normal_path(folder + "/" + name);
    if (!is_file(path)) {
        throw BundleError(path + " is missing from the bundle;" + AGAIN);
    }
    const std::uint64_t size = std::filesystem::file_size(path);
    if (!equals(listed, size)) {
        throw BundleError(path + " has " + std::to_string(size) + " bytes, the manifest says " + python_str(listed) +
                          ";" + AGAIN);
    }
}

BundleError changed(const std::string& path) {
    return BundleError(path + " was changed: its SHA-256 is not the manifest's;" + AGAIN);
}

BundleError unreadable(const std::string& path, const std::system_error& error) {
    return BundleError(path + " can't be read: " + reason(error) + ";" + AGAIN);
}

void check_hash(const std::string& path, const std::string& expected) {
    try {
        if (sha256_of_file(path) != expected) {
            throw changed(path);
        }
    } catch (const std::system_error& error) {
        throw unreadable(path, error);
    }
}

/// Call `work` with every number below `count`, in parallel.
void side_by_side(std::size_t count, const std::function<void(std::size_t)>& work) {
    std::atomic<std::size_t> next{0};
    const auto take = [&] {
        for (std::size_t number = 0; (number = next.fetch_add(1)) < count;) {
            work(number);
        }
    };
    std::vector<std::future<void>> others;
    const auto threads = std::min(count, static_cast<std::size_t>(chosen_threads()));
    for (std::size_t i = 1; i < threads; ++i) {
        others.push_back(std::async(std::launch::async, take));
    }
    take();
}

/// Whether the entries that affect results are as written: config, tokenizer, opset and limits, which no file's hash
/// covers.
bool is_as_written(const OrderedJson& manifest, const std::string& text) {
    if (manifest.contains(CHECKSUM)) {
        return is_intact(text, 2);
    }
    if (!manifest.contains(OLD_SEAL)) {
        return true;
    }
    Json sealed;
    for (const char* key : {"config", "tokenizer", "opset", "limits"}) {
        sealed[key] = member(manifest, key);
    }
    return manifest[OLD_SEAL] == old_seal(sealed);
}

void check_version(const OrderedJson& manifest, const std::string& path) {
    const OrderedJson& version = member(manifest, "version");
    if (!is_integer(version) || version < 1 || version > VERSION) {
        throw BundleError(path + " has format version " + python_str(version) + ", this caan reads up to " +
                          std::to_string(VERSION) + "; update caan, as with git pull and pip install in its checkout");
    }
}

} // namespace

Bundle::Bundle(const std::string& path) : Bundle(path, read_manifest(path)) {}

Bundle::Bundle(std::string path, const std::string& text)
    : folder(std::move(path)), manifest(parse_manifest(text, folder + "/" + MANIFEST)), sizes(sizes_of(manifest)) {
    check_files(folder, manifest);
    if (!is_as_written(manifest, text)) {
        throw BundleError(folder + "/" + MANIFEST + " does not fit its graphs: it was changed since caan wrote it;" +
                          AGAIN);
    }
    for (const auto& file : manifest["files"].items()) {
        checks_[file.key()] =
            std::async(std::launch::deferred, check_hash, normal_path(this->path(file.key())), hash_of(file.key()));
    }
}

void Bundle::require_precision(const std::string& precision) const {
    const OrderedJson& precisions = manifest["precisions"];
    if (!precisions.contains(precision)) {
        std::string known;
        for (const auto& item : precisions.items()) {
            known += (known.empty() ? "" : ", ") + item.key();
        }
        throw BundleError(folder + " has no precision '" + precision + "'; it has: " + known);
    }
}

std::string Bundle::content(const std::string& file) const {
    const std::string path = normal_path(this->path(file));
    std::string content;
    try {
        content = read_file(path);
    } catch (const std::system_error& error) {
        throw unreadable(path, error);
    }
    if (sha256_of(content.data(), content.size()) != hash_of(file)) {
        throw changed(path);
    }
    const std::lock_guard<std::mutex> one_at_a_time(reading_);
    read_.insert(file);
    return content;
}

std::string Bundle::verified(const std::string& file) const {
    std::shared_future<void>(checks_.at(file)).get();
    return path(file);
}

void Bundle::verify() const {
    // Hashing keeps a core busy, and engines are large.
    std::vector<std::string> files;
    {
        const std::lock_guard<std::mutex> one_at_a_time(reading_);
        for (const auto& file : manifest["files"].items()) {
            if (read_.count(file.key()) == 0) {
                files.push_back(file.key());
            }
        }
    }
    side_by_side(files.size(), [&](std::size_t number) { std::shared_future<void>(checks_.at(files[number])).wait(); });
    for (const std::string& file : files) {
        (void)verified(file);
    }
}

std::string Bundle::hash_of(const std::string& file) const {
    return member(member(manifest["files"], file), "sha256").get<std::string>();
}

bool is_sealed(const OrderedJson& manifest) { return manifest.contains(CHECKSUM) || manifest.contains(OLD_SEAL); }

std::string graph_file(const std::string& name, const std::string& precision) {
    return "onnx/" + name + "." + precision + ".onnx";
}

void from_bundle(const std::string& folder, const std::function<void(const Bundle&)>& read) {
    read_consistently(folder + "/" + MANIFEST, [&] {
        const Bundle bundle(folder);
        read(bundle);
        bundle.verify();
        return true;
    });
}

OrderedJson parse_manifest(const std::string& content, const std::string& path) {
    OrderedJson manifest;
    try {
        manifest = parse_ordered(content);
    } catch (const JsonError& error) {
        throw BundleError(path + " can't be read as JSON (" + error.what() + "); export the checkpoint again");
    }
    if (member(manifest, "format") != FORMAT) {
        throw BundleError(path + " is not a " + FORMAT + " manifest; make a bundle with: caan-export model.pt");
    }
    check_version(manifest, path);
    const auto require = [&](const std::string& key, bool is_valid) {
        if (!is_valid) {
            throw BundleError(path + " has no valid '" + key + "'; export the checkpoint again");
        }
    };
    require("config", member(manifest, "config").is_object());
    require("tokenizer", member(manifest, "tokenizer").is_string());
    for (const char* key : {"limits", "files", "precisions"}) {
        require(key, member(manifest, key).is_object());
    }
    const auto require_size = [&](const char* part, const char* key) {
        const OrderedJson& size = member(member(manifest, part), key);
        require(std::string(part) + "." + key, is_integer(size) && size >= 1 && size <= LARGEST_SIZE);
    };
    for (const char* key : {"region_dim", "embed_dim", "attention_dim", "vocab_size"}) {
        require_size("config", key);
    }
    require_size("limits", "regions");
    require_size("limits", "words");
    return manifest;
}

Sizes sizes_of(const OrderedJson& manifest) {
    const auto size = [&](const char* part, const char* key) {
        return member(member(manifest, part), key).get<std::int64_t>();
    };
    const OrderedJson& config = member(manifest, "config");
    return {size("config", "region_dim"),
            size("config", "embed_dim"),
            size("config", "attention_dim"),
            size("config", "vocab_size"),
            size("limits", "regions"),
            size("limits", "words"),
            member(config, config.contains("normalize_images") ? "normalize_images" : "normalize") != false};
}

void check_files(const std::string& folder, const OrderedJson& manifest) {
    const OrderedJson& files = manifest["files"];
    for (const auto& file : files.items()) {
        check_file(folder, file.key(), file.value());
    }
    std::set<std::string> expected{VOCABULARY_FILE};
    for (const auto& item : manifest["precisions"].items()) {
        for (const char* graph : GRAPHS) {
            expected.insert(graph_file(graph, item.key()));
        }
    }
    for (const std::string& file : expected) {
        if (!files.contains(file)) {
            throw BundleError(folder + "/" + MANIFEST + " does not list " + file + "; export the checkpoint again");
        }
    }
}

} // namespace caan::detail
