/// What vouches for a JSON file that is listed in no other: `checksum`, the SHA-256 of all bytes above its line.
/// Python's _checksum.py writes it.
#pragma once

#include <string>

#include "json.hpp"

namespace caan::detail {

inline constexpr const char* CHECKSUM = "checksum";

/// Whether a file has the checksum it holds; a byte order mark doesn't count. indent: the spaces before its entries.
bool is_intact(const std::string& text, std::size_t indent);

/// What files had before there were checksums: the SHA-256 of entries as Python prints them. Once no such file is to be
/// read any more, python_dumps goes with this.
std::string old_seal(const Json& entries);

} // namespace caan::detail
