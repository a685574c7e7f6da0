#include "unicode.hpp"

#include <algorithm>
#include <iterator>

#include "unicode_tables.hpp"

namespace caan::detail {
namespace {

constexpr char32_t CAPITAL_SIGMA = 0x3A3, SIGMA = 0x3C3, FINAL_SIGMA = 0x3C2, CAPITAL_I_WITH_DOT = 0x130;

/// The entry whose range holds a character, or null; the ranges are sorted.
template <typename Entry, std::size_t N> const Entry* find(const Entry (&table)[N], char32_t character) {
    const Entry* entry = std::lower_bound(std::begin(table), std::end(table), character,
                                          [](const Entry& e, char32_t c) { return e.last < c; });
    return entry != std::end(table) && entry->first <= character ? entry : nullptr;
}

bool is_ignorable(char32_t c) { return find(unicode::CASE_IGNORABLE, c) != nullptr; }
bool is_cased(char32_t c) { return find(unicode::CASED, c) != nullptr; }

/// Unicode's Final_Sigma: after a cased letter and not before one, case-ignorable characters skipped.
bool is_final_sigma(std::u32string_view text, std::size_t position) {
    std::size_t before = position;
    while (before > 0 && is_ignorable(text[before - 1])) {
        --before;
    }
    if (before == 0 || !is_cased(text[before - 1])) {
        return false;
    }
    std::size_t after = position + 1;
    while (after < text.size() && is_ignorable(text[after])) {
        ++after;
    }
    return after == text.size() || !is_cased(text[after]);
}

char32_t lower_one(char32_t c) {
    if (c < 0x80) {
        return c >= U'A' && c <= U'Z' ? c + 32 : c;
    }
    const unicode::LowerRange* range = find(unicode::LOWER, c);
    const bool is_lowered = range != nullptr && (c - range->first) % range->step == 0;
    return is_lowered ? static_cast<char32_t>(static_cast<int>(c) + range->delta) : c;
}

} // namespace

std::u32string lower(std::u32string_view text) {
    std::u32string result;
    result.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == CAPITAL_SIGMA) {
            result += is_final_sigma(text, i) ? FINAL_SIGMA : SIGMA;
        } else if (text[i] == CAPITAL_I_WITH_DOT) {
            result += U"i\u0307";
        } else {
            result += lower_one(text[i]);
        }
    }
    return result;
}

bool is_space(char32_t character) { return find(unicode::SPACE, character) != nullptr; }

bool is_word(char32_t character) { return find(unicode::WORD, character) != nullptr; }

bool is_digit(char32_t character) { return find(unicode::DIGIT, character) != nullptr; }

} // namespace caan::detail
