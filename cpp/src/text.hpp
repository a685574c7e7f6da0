/// Text as in Python: code points, and the output of str, repr and pathlib.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace caan::detail {

/// Bytes → code points. As in os.fsdecode, a byte that is not UTF-8 becomes a lone surrogate, U+DC80 to U+DCFF.
std::u32string decode(std::string_view bytes);

/// Code points → UTF-8; lone surrogates become their original bytes.
std::string encode(std::u32string_view text);

/// Whether `decode` met a byte that is not UTF-8.
bool has_surrogates(std::u32string_view text);

/// Python's text.split(), in UTF-8.
std::vector<std::string> split(std::u32string_view text);

/// The first `count` characters: Python's text[:count].
std::string shortened(std::string_view text, std::size_t count);

/// Python's ascii(text): quoted, non-ASCII characters escaped.
std::string ascii_repr(std::u32string_view text);

/// The text with terminal control characters escaped, as \x1b or \u202e: Python's `visible` in _text.py.
std::string visible(std::string_view text);

/// A path as Python's pathlib prints it: no doubled or trailing slashes, no "." but for an empty path.
std::string normal_path(std::string_view path);

} // namespace caan::detail
