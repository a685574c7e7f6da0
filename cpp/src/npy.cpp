#include "npy.hpp"

#include <limits>
#include <set>

namespace caan::detail {
namespace {

// numpy's limit too: its literal parser is not safe with longer headers.
constexpr std::size_t LONGEST_HEADER = 10000;

/// Parses the header's text: a Python dict of these three keys, as written by numpy.
class HeaderReader {
public:
    explicit HeaderReader(std::string_view text) : text_(text) {}

    NpyHeader read() {
        NpyHeader header;
        std::set<std::string> seen;
        expect('{');
        while (!accept('}')) {
            const std::string key = string();
            expect(':');
            if (key == "descr") {
                header.descr = string();
            } else if (key == "fortran_order") {
                header.fortran_order = boolean();
            } else if (key == "shape") {
                header.shape = shape();
            } else {
                fail();
            }
            seen.insert(key);
            if (!accept(',')) {
                expect('}');
                break;
            }
        }
        skip_space();
        if (!text_.empty() || seen.size() != 3) {
            fail();
        }
        // Python objects need unpickling, which may run any code.
        if (header.descr.find('O') != std::string::npos) {
            throw NpyObjects("it holds Python objects");
        }
        return header;
    }

private:
    [[noreturn]] static void fail() { throw NpyError("the header is not that of one plain array"); }

    void skip_space() {
        const std::size_t space = text_.find_first_not_of(" \t\n\r\f");
        text_.remove_prefix(space == std::string::npos ? text_.size() : space);
    }

    bool accept(char character) {
        skip_space();
        const bool found = !text_.empty() && text_[0] == character;
        text_.remove_prefix(found ? 1 : 0);
        return found;
    }

    void expect(char character) {
        if (!accept(character)) {
            fail();
        }
    }

    std::string string() {
        const char quote = accept('\'') ? '\'' : '"';
        if (quote == '"') {
            expect('"');
        }
        const std::size_t end = text_.find(quote);
        if (end == std::string::npos || text_.substr(0, end).find('\\') != std::string::npos) {
            fail();
        }
        std::string result(text_.substr(0, end));
        text_.remove_prefix(end + 1);
        return result;
    }

    bool boolean() {
        skip_space();
        for (const std::string_view word : {std::string_view("True"), std::string_view("False")}) {
            if (text_.substr(0, word.size()) == word) {
                text_.remove_prefix(word.size());
                return word == "True";
            }
        }
        fail();
    }

    std::size_t number() {
        skip_space();
        std::size_t value = 0, digits = 0;
        for (; digits < text_.size() && text_[digits] >= '0' && text_[digits] <= '9'; ++digits) {
            const auto digit = static_cast<std::size_t>(text_[digits] - '0');
            if (value > (std::numeric_limits<std::size_t>::max() - digit) / 10) {
                fail();
            }
            value = 10 * value + digit;
        }
        if (digits == 0) {
            fail();
        }
        text_.remove_prefix(digits);
        return value;
    }

    std::vector<std::size_t> shape() {
        std::vector<std::size_t> sizes;
        expect('(');
        while (!accept(')')) {
            sizes.push_back(number());
            if (!accept(',')) {
                expect(')');
                break;
            }
        }
        return sizes;
    }

    std::string_view text_;
};

} // namespace

NpyHeader parse_npy_header(std::string_view content) {
    const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(content[i])); };
    if (content.size() < 10 || content.substr(0, 6) != NPY_MAGIC || byte(6) < 1 || byte(6) > 3 || byte(7) != 0) {
        throw NpyError("this is not an .npy file");
    }
    const std::size_t start = byte(6) == 1 ? 10 : 12;
    if (content.size() < start) {
        throw NpyError("the header is cut off");
    }
    std::size_t length = byte(8) | byte(9) << 8;
    if (start == 12) {
        length |= byte(10) << 16 | byte(11) << 24;
    }
    if (length > LONGEST_HEADER || content.size() - start < length) {
        throw NpyError("the header is cut off, or too long");
    }
    NpyHeader header = HeaderReader(content.substr(start, length)).read();
    header.data_offset = start + length;
    return header;
}

std::string dtype_name(const std::string& descr) {
    if (descr.size() < 3 || (descr[0] != '<' && descr[0] != '|')) {
        return descr;
    }
    std::size_t bytes = 0;
    for (const char digit : descr.substr(2)) {
        if (digit < '0' || digit > '9' || bytes > 99) {
            return descr;
        }
        bytes = 10 * bytes + static_cast<std::size_t>(digit - '0');
    }
    const std::string bits = std::to_string(8 * bytes);
    switch (descr[1]) {
    case 'f':
        return "float" + bits;
    case 'i':
        return "int" + bits;
    case 'u':
        return "uint" + bits;
    case 'c':
        return "complex" + bits;
    case 'b':
        return "bool";
    default:
        return descr;
    }
}

std::string shape_str(const std::vector<std::size_t>& shape) {
    std::string text = "(";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
    }
    return text + (shape.size() == 1 ? ",)" : ")");
}

} // namespace caan::detail
