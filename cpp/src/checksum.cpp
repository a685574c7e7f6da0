#include "checksum.hpp"

#include <cstring>

#include "files.hpp"

namespace caan::detail {

bool is_intact(const std::string& text, std::size_t indent) {
    const std::size_t start = text.rfind(BYTE_ORDER_MARK, 0) == 0 ? std::strlen(BYTE_ORDER_MARK) : 0;
    // Deeper entries of that name are indented further, and strings contain no line feed.
    const std::string mark = "\n" + std::string(indent, ' ') + "\"" + CHECKSUM + "\": \"";
    const std::size_t end = text.find(mark, start);
    if (end == std::string::npos) {
        return false;
    }
    const std::string expected = sha256_of(text.data() + start, end - start) + "\"";
    return text.compare(end + mark.size(), expected.size(), expected) == 0;
}

std::string old_seal(const Json& entries) {
    const std::string text = python_dumps(entries);
    return sha256_of(text.data(), text.size());
}

} // namespace caan::detail
