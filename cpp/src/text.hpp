/// Text as Python sees it: code points, and how str, repr and pathlib print it.
#pragma once

#include <string>
#include <string_view>

namespace caan::detail {

/// Bytes → code points. As os.fsdecode, a byte that is not UTF-8 becomes a lone surrogate, U+DC80 to U+DCFF.
std::u32string decode(std::string_view bytes);

/// Code points → UTF-8, such surrogates the bytes that they were.
std::string encode(std::u32string_view text);

/// Whether `decode` met a byte that is not UTF-8.
bool has_surrogates(std::u32string_view text);

/// The first `count` characters: Python's text[:count].
std::string shortened(std::string_view text, std::size_t count);

/// Python's ascii(text): quoted, what is not ASCII escaped.
std::string ascii_repr(std::u32string_view text);

/// The text with all that a terminal would obey written out, as \x1b or \u202e: Python's `visible` of _text.py.
std::string visible(std::string_view text);

/// A path as Python's pathlib prints it: no doubled or trailing slashes, no "." but for an empty path.
std::string normal_path(std::string_view path);

} // namespace caan::detail
