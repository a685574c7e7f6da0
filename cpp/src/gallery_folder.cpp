#include "gallery_folder.hpp"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <string_view>
#include <unordered_set>

#include <sketches.hpp>

#include "checksum.hpp"
#include "files.hpp"
#include "gallery.hpp"
#include "json.hpp"

namespace caan::detail {
namespace {

constexpr const char* FORMAT = "caan-gallery";
// Version 2 has an old seal for a checksum; version 4 is for states in bfloat16 or int8, and for sketches.
constexpr std::int64_t OLDEST_VERSION = 2, VERSION = 4;
constexpr const char* DESCRIPTION = "/gallery.json";
constexpr const char* AGAIN = "run caan index again";
// Products of sizes up to this don't overflow; no gallery comes close.
constexpr std::int64_t LARGEST = std::int64_t{1} << 40;
constexpr std::int64_t MOST_COLUMNS = std::int64_t{1} << 20;

bool is_sealed(const std::string& text, Json content) {
    if (content["version"] != OLDEST_VERSION) {
        return is_intact(text, 1);
    }
    const Json seal = member(content, "sha256");
    content.erase("sha256");
    return seal == old_seal(content);
}

/// Reads entries of a verified description, so wrong ones are deliberate. Throws JsonError.
struct Entries {
    const Json& object;

    const Json& at(const char* key) const {
        if (!object.is_object() || !object.contains(key)) {
            throw JsonError("'" + std::string(key) + "'");
        }
        return object[key];
    }
    std::int64_t integer(const char* key, std::int64_t least, std::int64_t most) const {
        const Json& value = at(key);
        if (!is_integer(value) || value < least || value > most) {
            throw JsonError("'" + std::string(key) + "' is " + python_str(value));
        }
        return value.get<std::int64_t>();
    }
    std::string text(const char* key) const {
        const Json& value = at(key);
        if (!value.is_string()) {
            throw JsonError("'" + std::string(key) + "' is " + python_str(value));
        }
        return value.get<std::string>();
    }
    const Json& list(const char* key) const {
        if (!at(key).is_array()) {
            throw JsonError("'" + std::string(key) + "' is " + python_str(at(key)));
        }
        return at(key);
    }
    /// Whether there is such an entry that is not null.
    bool has(const char* key) const { return !member(object, key).is_null(); }
    /// Throws for other entries than these, of which the optional one may be absent.
    void only(std::initializer_list<const char*> keys, const char* optional = "") const {
        for (const char* key : keys) {
            at(key);
        }
        if (object.size() != keys.size() + object.count(optional)) {
            throw JsonError("it holds " + python_str(object));
        }
    }
    /// Which of two strings an entry is.
    bool is_first(const char* key, const char* first, const char* second) const {
        if (at(key) != first && at(key) != second) {
            throw JsonError("'" + std::string(key) + "' is " + python_str(at(key)));
        }
        return at(key) == first;
    }
};

kernels::StateType type_of(const Entries& entries) {
    const std::string name = entries.text("dtype");
    if (name == "float16") {
        return kernels::StateType::kFloat16;
    }
    if (name == "float32") {
        return kernels::StateType::kFloat32;
    }
    if (name == "bfloat16") {
        return kernels::StateType::kBFloat16;
    }
    if (name == "int8") {
        return kernels::StateType::kInt8;
    }
    throw JsonError("'dtype' is " + python_str(entries.at("dtype")));
}

Part part_of(const Json& content) {
    const Entries part{content};
    part.only({"size", "sha256"});
    return {static_cast<std::size_t>(part.integer("size", 0, LARGEST)), part.text("sha256")};
}

Block block_of(const Json& content) {
    const Entries block{content};
    block.only({"items", "rows", "sha256", "crc32"}, "sketches");
    block.integer("crc32", 0, LARGEST);
    return {block.integer("items", 1, LARGEST), block.integer("rows", 1, LARGEST), block.text("sha256")};
}

/// A list of numbers that increase, from 1 on.
std::vector<std::int64_t> rising(const Entries& entries, const char* key) {
    std::vector<std::int64_t> result;
    for (const Json& value : entries.list(key)) {
        if (!is_integer(value) || value <= (result.empty() ? 0 : result.back()) || value > LARGEST) {
            throw JsonError("'" + std::string(key) + "' holds " + python_str(value));
        }
        result.push_back(value.get<std::int64_t>());
    }
    if (result.empty()) {
        throw JsonError("'" + std::string(key) + "' is empty");
    }
    return result;
}

/// Shares (rows, columns), each from 0 to 1.
std::vector<std::vector<double>> shares(const Entries& entries, const char* key, std::size_t rows,
                                        std::size_t columns) {
    const auto is_share = [](const Json& value) { return value.is_number() && value >= 0 && value <= 1; };
    std::vector<std::vector<double>> result;
    for (const Json& row : entries.list(key)) {
        if (!row.is_array() || row.size() != columns || !std::all_of(row.begin(), row.end(), is_share)) {
            throw JsonError("'" + std::string(key) + "' holds " + python_str(row));
        }
        result.push_back(row.get<std::vector<double>>());
    }
    if (result.size() != rows) {
        throw JsonError("'" + std::string(key) + "' has " + std::to_string(result.size()) + " rows");
    }
    return result;
}

Curve curve_of(const Json& content) {
    const Entries curve{content};
    Curve result{curve.integer("items", 1, LARGEST),
                 curve.integer("sample", 1, LARGEST),
                 rising(curve, "k"),
                 rising(curve, "candidates"),
                 {},
                 {},
                 {}};
    const auto read = [&](const char* key) { return shares(curve, key, result.k.size(), result.candidates.size()); };
    result.recall = read("recall");
    result.low = read("low");
    result.high = read("high");
    return result;
}

void read_sketch(const Entries& entries, Description& description) {
    const bool has_sketch = entries.has("sketch");
    for (const Json& item : entries.list("blocks")) {
        const Entries block{item};
        if (block.has("sketches") != has_sketch) {
            throw JsonError("some blocks have sketches and others none");
        }
        if (has_sketch) {
            const std::int64_t items = block.integer("items", 1, LARGEST);
            description.sketch_blocks.push_back({items, items, block.text("sketches")});
        }
    }
    if (!has_sketch) {
        return;
    }
    const Entries sketch{entries.at("sketch")};
    const std::int64_t columns = sketch.integer("columns", kernels::kSketchStep, kernels::kLargestSketch);
    if (columns % static_cast<std::int64_t>(kernels::kSketchStep) != 0) {
        throw JsonError("'columns' is " + std::to_string(columns));
    }
    description.sketch = {sketch.text("model"), static_cast<std::size_t>(columns), {}};
    if (entries.has("curve")) {
        description.sketch->curve = curve_of(entries.at("curve"));
    }
}

/// Runs of deleted items, increasing and separate.
void read_runs(const Json& runs, Description& description) {
    std::int64_t end = 0;
    for (const Json& run : runs) {
        if (!run.is_array() || run.size() != 2 || !is_integer(run[0]) || !is_integer(run[1]) || run[0] < end ||
            run[0] > run[1] || run[1] > description.items) {
            throw JsonError("'deleted' holds " + python_str(run));
        }
        end = run[1].get<std::int64_t>();
        description.deleted.emplace_back(run[0].get<std::int64_t>(), end);
    }
}

Description description_of(const Json& content) {
    const Entries entries{content};
    Description result{};
    result.kind = entries.is_first("kind", "image", "text") ? Kind::image : Kind::text;
    result.encoder = entries.text("encoder");
    result.type = type_of(entries);
    result.columns = static_cast<std::size_t>(entries.integer("columns", 1, MOST_COLUMNS));
    // Captions' states are always whole: only images have V.
    if (!entries.at("compact").is_boolean() || (result.kind == Kind::text && entries.at("compact") == true)) {
        throw JsonError("'compact' is " + python_str(entries.at("compact")));
    }
    result.compact = entries.at("compact").get<bool>();
    result.bundle = entries.at("bundle").is_null() ? "" : entries.text("bundle");
    for (const Json& item : entries.list("blocks")) {
        result.blocks.push_back(block_of(item));
        result.items += result.blocks.back().items;
        result.rows += result.blocks.back().rows;
        if (result.items > LARGEST || result.rows > LARGEST) {
            throw JsonError("'blocks' hold too much");
        }
    }
    if (result.blocks.empty()) {
        throw JsonError("it has no blocks");
    }
    result.lengths = part_of(entries.at("lengths"));
    if (!entries.at("ids").is_null()) {
        result.ids.push_back(part_of(entries.at("ids")));
    }
    read_runs(entries.list("deleted"), result);
    read_sketch(entries, result);
    return result;
}

std::string read_part(const std::string& path, const Part& part) {
    std::string content;
    try {
        content = read_file(path, part.size);
    } catch (const std::system_error& error) {
        throw BundleError(path + " can't be read (" + reason(error) + "); " + AGAIN + " with --overwrite");
    }
    if (content.size() != part.size) {
        throw BundleError(path + " is truncated: " + std::to_string(content.size()) + " bytes of " +
                          std::to_string(part.size) + "; " + AGAIN + " with --overwrite");
    }
    if (sha256_of(content.data(), content.size()) != part.sha256) {
        throw BundleError(path + " was changed: its SHA-256 is not the gallery's; " + AGAIN + " with --overwrite");
    }
    return content;
}

BundleError unreadable(const std::string& path, const std::system_error& error) {
    return BundleError(path + " can't be read (" + reason(error) + "); " + AGAIN + " with --overwrite");
}

BundleError truncated(const std::string& path, std::size_t found, std::size_t expected) {
    return BundleError(path + " is truncated: " + std::to_string(found) + " bytes of " + std::to_string(expected) +
                       "; " + AGAIN + " with --overwrite");
}

void map_states(Gallery::Content& content, const std::string& path, const Description& description,
                std::size_t expected) {
    try {
        content.file = MappedFile(path);
        if (content.file.size() < expected) {
            throw truncated(path, content.file.size(), expected);
        }
        content.check = std::make_unique<BlockCheck>(path, description.blocks, content.file, content.row_bytes());
    } catch (const std::system_error& error) {
        throw unreadable(path, error);
    }
    content.states = content.file.data();
}

void read_states(Gallery::Content& content, const std::string& path, const Description& description,
                 std::size_t expected) {
    // Checked first: memory is allocated for what the file holds, not for what is claimed.
    map_states(content, path, description, expected);
    content.check.reset();
    content.file = MappedFile();
    try {
        content.memory = std::unique_ptr<std::byte[]>(new std::byte[expected]);
        const std::size_t found = read_into(path, content.memory.get(), expected);
        if (found < expected) {
            throw truncated(path, found, expected);
        }
    } catch (const std::system_error& error) {
        throw unreadable(path, error);
    } catch (const std::bad_alloc&) {
        throw BundleError(path + " needs more memory than there is: " + std::to_string(expected) + " bytes");
    }
    for (std::size_t number = 0; number < description.blocks.size(); ++number) {
        compare_block(path, description.blocks, number, content.memory.get(), content.row_bytes());
    }
    content.states = content.memory.get();
}

Description read_description(const std::string& folder) {
    const std::string path = folder + DESCRIPTION;
    if (!is_file(path)) {
        throw BundleError(folder +
                          " is not a gallery: it has no gallery.json; make one with: caan index BUNDLE FEATURES");
    }
    try {
        return parse_description(read_file(path), path);
    } catch (const std::system_error& error) {
        throw BundleError(path + " can't be read as JSON (" + os_error(error, path) + "); " + AGAIN +
                          " with --overwrite");
    }
}

/// Throws BundleError if two items have the same id; a deleted item's id may be reused.
void check_unique(const std::vector<std::string>& ids, const std::vector<bool>& deleted, const std::string& path) {
    std::unordered_set<std::string_view> taken;
    taken.reserve(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
        if ((deleted.empty() || !deleted[i]) && !taken.insert(ids[i]).second) {
            throw BundleError(path + " gives two items the same id; " + AGAIN + " with --overwrite");
        }
    }
}

/// The gallery as it is now; a mixture of two versions if it is being replaced.
std::shared_ptr<const Gallery::Content> read_once(const std::string& folder, Storage storage) {
    const Description description = read_description(folder);
    auto content = std::make_shared<Gallery::Content>();
    content->kind = description.kind;
    content->encoder = description.encoder;
    content->type = description.type;
    content->columns = description.columns;
    content->compact = description.compact;
    content->bundle = description.bundle;
    content->folder = folder;
    const std::string lengths = folder + "/lengths.bin", ids = folder + "/ids.jsonl", states = folder + "/states.bin";
    content->offsets = parse_lengths(read_part(lengths, description.lengths), description, lengths);
    if (!description.ids.empty()) {
        content->ids = parse_ids(read_part(ids, description.ids[0]), description, ids);
    }
    if (!description.deleted.empty()) {
        content->deleted.resize(static_cast<std::size_t>(description.items));
        for (const auto& [start, end] : description.deleted) {
            std::fill(content->deleted.begin() + start, content->deleted.begin() + end, true);
        }
    }
    if (content->ids) {
        check_unique(*content->ids, content->deleted, ids);
    }
    const std::size_t bytes = static_cast<std::size_t>(description.rows) * content->row_bytes();
    (storage == Storage::memory ? read_states : map_states)(*content, states, description, bytes);
    if (description.sketch) {
        content->sketches = std::make_shared<Sketches>(folder, *description.sketch, description.sketch_blocks,
                                                       content->deleted, storage == Storage::memory);
    }
    content->finish();
    return content;
}

} // namespace

std::shared_ptr<const Gallery::Content> read_gallery(const std::string& folder, Storage storage) {
    return read_consistently(folder + DESCRIPTION, [&] { return read_once(folder, storage); });
}

Description parse_description(const std::string& text, const std::string& path) {
    Json content;
    try {
        content = parse_json(text);
    } catch (const JsonError& error) {
        throw BundleError(path + " can't be read as JSON (" + error.what() + "); " + AGAIN + " with --overwrite");
    }
    if (member(content, "format") != FORMAT) {
        throw BundleError(path + " does not describe a " + FORMAT + "; make one with: caan index BUNDLE FEATURES");
    }
    const Json& version = member(content, "version");
    if (!is_integer(version) || version > VERSION) {
        throw BundleError(path + " has format version " + python_str(version) + ", this caan reads up to " +
                          std::to_string(VERSION) + "; update caan, as with git pull and pip install in its checkout");
    }
    if (version < OLDEST_VERSION) {
        throw BundleError(path + " has format version " + python_str(version) + ", which an older caan wrote; " +
                          AGAIN);
    }
    if (!is_sealed(text, content)) {
        throw BundleError(path + " was changed: its SHA-256 is not the one it holds; " + AGAIN + " with --overwrite");
    }
    try {
        return description_of(content);
    } catch (const JsonError& error) {
        throw BundleError(path + " is not a valid description (" + error.what() + "); " + AGAIN + " with --overwrite");
    }
}

std::vector<std::int64_t> parse_lengths(const std::string& content, const Description& description,
                                        const std::string& path) {
    const auto misfit = [&] { return BundleError(path + " does not fit gallery.json; " + AGAIN); };
    if (content.size() != static_cast<std::size_t>(description.items) * sizeof(std::int32_t)) {
        throw misfit();
    }
    std::vector<std::int64_t> offsets{0};
    offsets.reserve(static_cast<std::size_t>(description.items) + 1);
    for (std::size_t i = 0; i < content.size(); i += sizeof(std::int32_t)) {
        std::int32_t length = 0;
        std::memcpy(&length, content.data() + i, sizeof length);
        if (length < 1) {
            throw misfit();
        }
        offsets.push_back(offsets.back() + length);
    }
    if (offsets.back() != description.rows) {
        throw misfit();
    }
    return offsets;
}

std::vector<std::string> parse_ids(const std::string& content, const Description& description,
                                   const std::string& path) {
    std::string list = "[" + content;
    if (list.back() == '\n') {
        list.pop_back();
    }
    for (char& character : list) {
        // Inside a string a line feed would be escaped as \n.
        character = character == '\n' ? ',' : character;
    }
    Json names;
    try {
        names = parse_json(list + "]");
    } catch (const JsonError&) {
        names = nullptr;
    }
    const auto is_text = [](const Json& name) { return name.is_string(); };
    if (!names.is_array() || !std::all_of(names.begin(), names.end(), is_text)) {
        throw BundleError(path + " does not hold one text a line; " + AGAIN + " with --overwrite");
    }
    std::vector<std::string> ids;
    for (const Json& name : names) {
        ids.push_back(name.get<std::string>());
    }
    if (ids.size() != static_cast<std::size_t>(description.items)) {
        throw BundleError(path + " names " + std::to_string(ids.size()) + " items, the gallery has " +
                          std::to_string(description.items) + "; " + AGAIN + " with --overwrite");
    }
    return ids;
}

} // namespace caan::detail
