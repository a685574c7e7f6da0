/// The first line is a caption, the rest a vocabulary: the ids are within its size, or there is a DataError.
#include <algorithm>
#include <string>

#include "vocabulary.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string content(reinterpret_cast<const char*>(data), size);
    const std::size_t line = std::min(content.find('\n'), content.size());
    try {
        const std::size_t rest = std::min(line + 1, content.size());
        const auto vocabulary = caan::detail::Vocabulary::parse(content.substr(rest), "vocab.json");
        for (const std::int64_t id : vocabulary.encode(content.substr(0, line))) {
            if (id < 0 || id >= vocabulary.size()) {
                __builtin_trap();
            }
        }
    } catch (const caan::DataError&) {
    }
    return 0;
}
