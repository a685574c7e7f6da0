#include "text.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "unicode.hpp"

namespace caan::detail {
namespace {

struct Decoded {
    char32_t character;
    std::size_t bytes; // 0: not UTF-8
};

Decoded decode_one(std::string_view bytes) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
    const unsigned char lead = byte(0);
    if (lead < 0x80) {
        return {lead, 1};
    }
    const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || bytes.size() < length) {
        return {0, 0};
    }
    char32_t character = lead & (0x7FU >> length);
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xC0) != 0x80) {
            return {0, 0};
        }
        character = character << 6 | (byte(i) & 0x3F);
    }
    constexpr char32_t SMALLEST[] = {0, 0, 0x80, 0x800, 0x10000};
    const bool is_surrogate = character >= 0xD800 && character <= 0xDFFF;
    if (character < SMALLEST[length] || character > 0x10FFFF || is_surrogate) {
        return {0, 0};
    }
    return {character, length};
}

/// A character as Python's "unicode_escape" writes it.
std::string escaped(char32_t c) {
    if (c == U'\n' || c == U'\r' || c == U'\t') {
        return c == U'\n' ? "\\n" : c == U'\r' ? "\\r" : "\\t";
    }
    const int digits = c < 0x100 ? 2 : c < 0x10000 ? 4 : 8;
    std::string result = digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
    for (int digit = digits - 1; digit >= 0; --digit) {
        result += "0123456789abcdef"[c >> (4 * digit) & 15];
    }
    return result;
}

/// Control and format characters except the two joiners, line separators, and bytes that are not UTF-8.
bool is_hidden(char32_t c) {
    constexpr std::pair<char32_t, char32_t> HIDDEN[] = {
        {0, 0x1F},          {0x7F, 0x9F},       {0xAD, 0xAD},       {0x600, 0x605},     {0x61C, 0x61C},
        {0x6DD, 0x6DD},     {0x70F, 0x70F},     {0x890, 0x891},     {0x8E2, 0x8E2},     {0x180E, 0x180E},
        {0x200B, 0x200B},   {0x200E, 0x200F},   {0x2028, 0x202E},   {0x2060, 0x2064},   {0x2066, 0x206F},
        {0xD800, 0xDFFF},   {0xFEFF, 0xFEFF},   {0xFFF9, 0xFFFB},   {0x110BD, 0x110BD}, {0x110CD, 0x110CD},
        {0x13430, 0x1343F}, {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A}, {0xE0001, 0xE0001}, {0xE0020, 0xE007F}};
    return std::any_of(std::begin(HIDDEN), std::end(HIDDEN),
                       [c](const auto& range) { return c >= range.first && c <= range.second; });
}

} // namespace

std::u32string decode(std::string_view bytes) {
    std::u32string text;
    text.reserve(bytes.size());
    while (!bytes.empty()) {
        const Decoded next = decode_one(bytes);
        text += next.bytes ? next.character : 0xDC00 + static_cast<unsigned char>(bytes[0]);
        bytes.remove_prefix(std::max<std::size_t>(next.bytes, 1));
    }
    return text;
}

std::string encode(std::u32string_view text) {
    std::string bytes;
    bytes.reserve(text.size());
    const auto put = [&](char32_t byte) { bytes += static_cast<char>(static_cast<unsigned char>(byte)); };
    for (const char32_t c : text) {
        if (c < 0x80) {
            put(c);
        } else if (c < 0x800) {
            put(0xC0 | c >> 6);
            put(0x80 | (c & 0x3F));
        } else if (c >= 0xDC80 && c <= 0xDCFF) {
            put(c - 0xDC00);
        } else if (c < 0x10000) {
            put(0xE0 | c >> 12);
            put(0x80 | (c >> 6 & 0x3F));
            put(0x80 | (c & 0x3F));
        } else {
            put(0xF0 | c >> 18);
            put(0x80 | (c >> 12 & 0x3F));
            put(0x80 | (c >> 6 & 0x3F));
            put(0x80 | (c & 0x3F));
        }
    }
    return bytes;
}

bool has_surrogates(std::u32string_view text) {
    return std::any_of(text.begin(), text.end(), [](char32_t c) { return c >= 0xD800 && c <= 0xDFFF; });
}

std::vector<std::string> split(std::u32string_view text) {
    std::vector<std::string> words;
    for (std::size_t start = 0; start < text.size();) {
        std::size_t end = start;
        while (end < text.size() && !is_space(text[end])) {
            ++end;
        }
        if (end > start) {
            words.push_back(encode(text.substr(start, end - start)));
        }
        start = end + 1;
    }
    return words;
}

std::string shortened(std::string_view text, std::size_t count) {
    // No character has more than four bytes: ignore the rest.
    return encode(decode(text.substr(0, 4 * count)).substr(0, count));
}

std::string ascii_repr(std::u32string_view text) {
    const bool has_single = text.find(U'\'') != std::string::npos;
    const char quote = has_single && text.find(U'"') == std::string::npos ? '"' : '\'';
    std::string result(1, quote);
    for (const char32_t c : text) {
        if (c == U'\\' || c == static_cast<char32_t>(quote)) {
            result += '\\';
            result += static_cast<char>(c);
        } else if (c >= 0x20 && c < 0x7F) {
            result += static_cast<char>(c);
        } else {
            result += escaped(c);
        }
    }
    return result + quote;
}

std::string visible(std::string_view text) {
    std::string result;
    for (const char32_t c : decode(text)) {
        result += is_hidden(c) ? escaped(c) : encode(std::u32string_view(&c, 1));
    }
    return result;
}

std::string normal_path(std::string_view path) {
    std::string result;
    if (!path.empty() && path[0] == '/') {
        // POSIX leaves exactly two leading slashes to the system; pathlib keeps them.
        result = path.substr(0, 2) == "//" && path.substr(0, 3) != "///" ? "//" : "/";
    }
    const std::size_t root = result.size();
    for (std::size_t start = 0; start < path.size();) {
        const std::size_t end = std::min(path.find('/', start), path.size());
        const std::string_view part = path.substr(start, end - start);
        if (!part.empty() && part != ".") {
            result.append(result.size() > root ? "/" : "").append(part);
        }
        start = end + 1;
    }
    return result.empty() ? "." : result;
}

} // namespace caan::detail
