/// A gallery's three small files, one after the other with a zero byte between: gallery.json, lengths.bin, ids.jsonl.
/// They are read and match each other, or are refused with a BundleError.
///
/// A fuzzer can't find a SHA-256: the description's checksum, or in format 2 its seal, is computed here.
#include <algorithm>
#include <string>

#include "checksum.hpp"
#include "files.hpp"
#include "gallery_folder.hpp"
#include "json.hpp"

namespace {

using namespace caan::detail;

std::string next_part(std::string& content) {
    const std::size_t end = std::min(content.find('\0'), content.size());
    const std::string part = content.substr(0, end);
    content.erase(0, std::min(end + 1, content.size()));
    return part;
}

std::string sealed(const std::string& text) {
    try {
        Json content = parse_json(text);
        if (!content.is_object() || content.empty()) {
            return text;
        }
        content.erase("sha256");
        content.erase(CHECKSUM);
        if (member(content, "version") == 2) {
            content["sha256"] = old_seal(content);
            return content.dump();
        }
        std::string above = content.dump(1);
        above.replace(above.size() - 2, 2, ",");
        return above + "\n \"" + CHECKSUM + "\": \"" + sha256_of(above.data(), above.size()) + "\"\n}\n";
    } catch (const JsonError&) {
        return text;
    }
}

void check(const Description& description, const std::vector<std::int64_t>& offsets) {
    const auto items = static_cast<std::size_t>(description.items);
    bool is_good = offsets.size() == items + 1 && offsets.back() == description.rows;
    is_good = is_good && std::is_sorted(offsets.begin(), offsets.end());
    for (const auto& [first, end] : description.deleted) {
        is_good = is_good && 0 <= first && first <= end && end <= description.items;
    }
    if (!is_good) {
        __builtin_trap();
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::string content(reinterpret_cast<const char*>(data), size);
    const std::string text = next_part(content);
    try {
        const Description description = parse_description(sealed(text), "gallery.json");
        std::string ids = content.substr(std::min(content.size(), 4 * static_cast<std::size_t>(description.items)));
        content.resize(content.size() - ids.size());
        if (!ids.empty() && !description.ids.empty() &&
            parse_ids(ids, description, "ids.jsonl").size() != static_cast<std::size_t>(description.items)) {
            __builtin_trap();
        }
        check(description, parse_lengths(content, description, "lengths.bin"));
    } catch (const caan::BundleError&) {
    }
    return 0;
}
