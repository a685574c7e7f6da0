#include "treebank.hpp"

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <iterator>

#include "text.hpp"
#include "unicode.hpp"

namespace caan::detail {
namespace {

using Text = std::u32string;
using View = std::u32string_view;

bool is_any(char32_t c, View of) { return of.find(c) != View::npos; }

bool is_letter(char32_t c) { return is_word(c) && !is_digit(c) && c != U'_'; }

/// Python's `text[i:].startswith(part)`.
bool has(View text, std::size_t i, View part) { return i <= text.size() && text.substr(i, part.size()) == part; }

/// As `has`, where ı and ſ pass for i and s.
bool has_folded(View text, std::size_t i, View part) {
    const auto folds = [](char32_t p, char32_t c) {
        return p == c || (p == U'i' && c == U'ı') || (p == U's' && c == U'ſ');
    };
    return i + part.size() <= text.size() && std::equal(part.begin(), part.end(), text.begin() + i, folds);
}

/// re's `\b`, which no place beyond the end is.
bool is_boundary(View text, std::size_t i) {
    return i <= text.size() && (i > 0 && is_word(text[i - 1])) != (i < text.size() && is_word(text[i]));
}

std::size_t after_space(View text, std::size_t i) {
    while (i < text.size() && is_space(text[i])) {
        ++i;
    }
    return i;
}

/// One of Python's rules: the length of what it finds at a position, whose replacement it appends; 0 for nothing.
using Rule = std::size_t (*)(View text, std::size_t i, Text& out);

/// Python's re.sub.
Text replaced(View text, Rule rule) {
    Text result;
    result.reserve(text.size() + 16);
    for (std::size_t i = 0; i < text.size();) {
        if (const std::size_t length = rule(text, i, result)) {
            i += length;
        } else {
            result += text[i++];
        }
    }
    return result;
}

/// Appends parts with space around each, and returns their length.
std::size_t apart(Text& out, std::initializer_list<View> parts) {
    std::size_t length = 0;
    out += U' ';
    for (const View part : parts) {
        out += part;
        out += U' ';
        length += part.size();
    }
    return length;
}

std::size_t opening_quote(View text, std::size_t i, Text& out) {
    if (i == 0 && text[i] == U'"') {
        apart(out, {U"``"});
        return 1;
    }
    if (text[i] == U'`') {
        return apart(out, {text.substr(i, has(text, i, U"``") ? 2 : 1)});
    }
    return is_any(text[i], U"«“‘„") ? apart(out, {text.substr(i, 1)}) : 0;
}

std::size_t quote_after_space(View text, std::size_t i, Text& out) {
    const std::size_t quote = has(text, i + 1, U"\"") ? 1 : has(text, i + 1, U"''") ? 2 : 0;
    if (quote == 0 || !is_any(text[i], U" ([{<")) {
        return 0;
    }
    out += text[i];
    apart(out, {U"``"});
    return 1 + quote;
}

std::size_t apostrophe(View text, std::size_t i, Text& out) {
    if (text[i] != U'\'' || (i > 0 && is_word(text[i - 1])) || i + 1 == text.size() || !is_word(text[i + 1])) {
        return 0;
    }
    for (const View end : {U"re", U"ve", U"ll", U"m", U"t", U"s", U"d", U"n"}) {
        if (has_folded(text, i + 1, end) && is_boundary(text, i + 1 + end.size())) {
            return 0;
        }
    }
    out += U"' ";
    return 1;
}

std::size_t last_period(View text, std::size_t i, Text& out) {
    if (text[i] == U'.' || !has(text, i + 1, U".")) {
        return 0;
    }
    std::size_t end = i + 2;
    while (end < text.size() && is_any(text[end], U"])}>\"'»”’ ")) {
        ++end;
    }
    if (after_space(text, end) != text.size()) {
        return 0;
    }
    out += text[i];
    apart(out, {U".", text.substr(i + 2, end - i - 2)});
    return text.size() - i;
}

std::size_t colon_or_comma(View text, std::size_t i, Text& out) {
    if (!is_any(text[i], U":,") || i + 1 == text.size() || is_digit(text[i + 1])) {
        return 0;
    }
    apart(out, {text.substr(i, 1)});
    out += text[i + 1];
    return 2;
}

std::size_t last_colon_or_comma(View text, std::size_t i, Text& out) {
    return i + 1 == text.size() && is_any(text[i], U":,") ? apart(out, {text.substr(i, 1)}) : 0;
}

std::size_t punctuation(View text, std::size_t i, Text& out) {
    if (has(text, i, U"..")) {
        return apart(out, {text.substr(i, std::min(text.find_first_not_of(U'.', i), text.size()) - i)});
    }
    const bool is_found = is_any(text[i], U";@#$%&?!") || (text[i] >= 0x2012 && text[i] <= 0x2015);
    return is_found ? apart(out, {text.substr(i, 1)}) : 0;
}

std::size_t closing_apostrophe(View text, std::size_t i, Text& out) {
    if (text[i] == U'\'' || !has(text, i + 1, U"' ")) {
        return 0;
    }
    out += text[i];
    apart(out, {U"'"});
    return 3;
}

std::size_t bracket_or_dashes(View text, std::size_t i, Text& out) {
    const std::size_t length = is_any(text[i], U"*[](){}<>") ? 1 : has(text, i, U"--") ? 2 : 0;
    return length == 0 ? 0 : apart(out, {text.substr(i, length)});
}

std::size_t closing_quote(View text, std::size_t i, Text& out) {
    if (is_any(text[i], U"»”’")) {
        return apart(out, {text.substr(i, 1)});
    }
    const std::size_t length = text[i] == U'"' ? 1 : has(text, i, U"''") ? 2 : 0;
    if (length != 0) {
        apart(out, {U"''"});
    }
    return length;
}

std::size_t space(View text, std::size_t i, Text& out) {
    if (!is_space(text[i])) {
        return 0;
    }
    out += U' ';
    return after_space(text, i) - i;
}

/// The end of a word after an apostrophe or n't, with the space behind it.
template <typename... Ends> std::size_t ending(View text, std::size_t i, Text& out, const Ends&... ends) {
    if (is_any(text[i], U"' ")) {
        return 0;
    }
    for (const View end : {View(ends)...}) {
        if (has(text, i + 1, end) && has(text, i + 1 + end.size(), U" ")) {
            out += text[i];
            return apart(out, {end}) + 2;
        }
    }
    return 0;
}

std::size_t short_ending(View text, std::size_t i, Text& out) {
    return ending(text, i, out, U"'s", U"'m", U"'d", U"'");
}

std::size_t long_ending(View text, std::size_t i, Text& out) {
    return ending(text, i, out, U"'ll", U"'re", U"'ve", U"n't");
}

constexpr Rule RULES[] = {opening_quote,       quote_after_space, apostrophe,         last_period,      colon_or_comma,
                          last_colon_or_comma, punctuation,       closing_apostrophe, bracket_or_dashes};
constexpr Rule RULES_BETWEEN_SPACES[] = {closing_quote, space, short_ending, long_ending};

/// Two words written as one; `is_after_space`: only behind a space, otherwise behind any word's end.
struct Contraction {
    View first, second;
    bool is_after_space = false, is_before_space = false;
};

constexpr Contraction CONTRACTIONS[] = {
    {U"can", U"not"},     {U"d", U"'ye"},       {U"gim", U"me"},  {U"gon", U"na"},
    {U"got", U"ta"},      {U"lem", U"me"},      {U"more", U"'n"}, {U"wan", U"na", false, true},
    {U"'t", U"is", true}, {U"'t", U"was", true}};

Text parted(View text, const Contraction& words) {
    const std::size_t length = words.first.size() + words.second.size();
    Text result;
    for (std::size_t i = 0; i < text.size();) {
        const bool begins = words.is_after_space ? i > 0 && text[i - 1] == U' ' : is_boundary(text, i);
        const bool ends = words.is_before_space ? has(text, i + length, U" ") : is_boundary(text, i + length);
        if (begins && has_folded(text, i, words.first) && has_folded(text, i + words.first.size(), words.second) &&
            ends) {
            i += apart(result,
                       {text.substr(i, words.first.size()), text.substr(i + words.first.size(), words.second.size())});
        } else {
            result += text[i++];
        }
    }
    return result;
}

/// The words of one sentence, with space between them.
Text treebank_words(View sentence) {
    Text text(sentence);
    for (const Rule rule : RULES) {
        text = replaced(text, rule);
    }
    text = U' ' + text + U' ';
    for (const Rule rule : RULES_BETWEEN_SPACES) {
        text = replaced(text, rule);
    }
    for (const Contraction& words : CONTRACTIONS) {
        text = parted(text, words);
    }
    return text;
}

constexpr View ABBREVIATIONS[] = {U"adm", U"ave",  U"bros", U"co",  U"col", U"corp", U"dr",     U"ft", U"gen",
                                  U"gov", U"inc",  U"jr",   U"lt",  U"ltd", U"maj",  U"messrs", U"mr", U"mrs",
                                  U"ms",  U"prof", U"rep",  U"sen", U"sgt", U"sr",   U"st",     U"vs", U"jan",
                                  U"feb", U"aug",  U"sept", U"oct", U"nov", U"dec"};

bool is_abbreviation(View word) {
    if (std::find(std::begin(ABBREVIATIONS), std::end(ABBREVIATIONS), word) != std::end(ABBREVIATIONS)) {
        return true;
    }
    for (std::size_t i = 0; i < word.size(); ++i) { // u.s, a.m
        if (i % 2 == 0 ? !is_letter(word[i]) : word[i] != U'.') {
            return false;
        }
    }
    return word.size() > 1 && word.size() % 2 == 1;
}

bool is_number(View word) {
    if (has(word, 0, U".")) {
        word.remove_prefix(1);
    }
    const auto may_follow = [](char32_t c) { return is_digit(c) || is_any(c, U",.-"); };
    return !word.empty() && is_digit(word[0]) && std::all_of(word.begin(), word.end(), may_follow);
}

/// Whether a period ends a sentence. part: the text before it; following: the first character behind it.
bool is_end(View part, char32_t following) {
    std::size_t start = part.size();
    while (start > 0 && !is_space(part[start - 1]) && !is_any(part[start - 1], U")\";}]*:@({[") &&
           !(start > 1 && has(part, start - 2, U"--"))) {
        --start;
    }
    const View word = part.substr(std::min(part.find_first_not_of(U"`&#,-", start), part.size()));
    if (!word.empty() && word.back() == U'.') { // an ellipsis
        const std::size_t last = word.find_last_not_of(U'.');
        return last != View::npos && is_any(word[last], U"?!");
    }
    if (is_abbreviation(word.substr(word.rfind(U'-') + 1))) {
        return false;
    }
    const bool is_vague = (word.size() == 1 && is_letter(word[0])) || is_number(word);
    return !(is_vague && (is_letter(following) || is_any(following, U";:,!?")));
}

/// The character behind a stop that may end a sentence, or 0.
char32_t following(View text, std::size_t stop) {
    if (!is_any(text[stop], U".?!")) {
        return 0;
    }
    const std::size_t next = stop + 1, word = after_space(text, next);
    const bool is_found = word < text.size() && (word > next || is_any(text[next], U")\";}]*:@'({[‘’“”«»?!"));
    return is_found ? text[word] : 0;
}

/// Where sentences end, at most once in text without white space: behind its last stop if any stop ends one.
std::vector<std::size_t> ends_of(View text) {
    std::vector<std::size_t> ends;
    std::size_t last = 0;
    bool is_found = false;
    for (std::size_t stop = 0; stop < text.size(); ++stop) {
        const char32_t next = following(text, stop);
        if (next == 0) {
            continue;
        }
        View part = text.substr(last, stop - last);
        if (const std::size_t before = part.find_last_of(U" \t\n\v\f\r"); before != View::npos) {
            part.remove_prefix(before + 1);
            if (is_found) {
                ends.push_back(last);
            }
            is_found = false;
        }
        last = stop + 1;
        is_found = is_found || text[stop] != U'.' || is_end(part, next);
    }
    if (is_found) {
        ends.push_back(last);
    }
    return ends;
}

/// The end of the quotes and brackets that still belong to the sentence that ends before them.
std::size_t after_closers(View text, std::size_t end) {
    for (std::size_t i = after_space(text, end); i < text.size() && is_any(text[i], U"\"')]}‘’“”«»");) {
        ++i;
        if (i == text.size() || is_space(text[i]) || has(text, i, U"--")) {
            return i;
        }
    }
    return end;
}

} // namespace

std::vector<std::string> word_tokenize(std::u32string_view text) {
    std::vector<std::string> words;
    while (!text.empty() && is_space(text.back())) {
        text.remove_suffix(1);
    }
    std::size_t start = 0;
    const auto add = [&](std::size_t end) {
        const std::vector<std::string> more = split(treebank_words(text.substr(start, end - start)));
        words.insert(words.end(), more.begin(), more.end());
        start = after_space(text, end);
    };
    for (const std::size_t end : ends_of(text)) {
        add(after_closers(text, end));
    }
    add(text.size());
    return words;
}

} // namespace caan::detail
