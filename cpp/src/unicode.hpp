/// Character classes and case as in Python's str and re.
#pragma once

#include <string>
#include <string_view>

namespace caan::detail {

/// str.lower, including the final sigma and U+0130.
std::u32string lower(std::u32string_view text);

/// str.isspace, which is also re's \s.
bool is_space(char32_t character);

/// re's \w.
bool is_word(char32_t character);

/// re's \d.
bool is_digit(char32_t character);

} // namespace caan::detail
