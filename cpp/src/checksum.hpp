/// Integrity of a JSON file not covered by another file's hash: `checksum`, the SHA-256 of all bytes above its line.
/// Written by Python's _checksum.py.
#pragma once

#include <string>

#include "json.hpp"

namespace caan::detail {

inline constexpr const char* CHECKSUM = "checksum";

/// Whether a file matches its checksum, ignoring a byte order mark. indent: the spaces before its entries.
bool is_intact(const std::string& text, std::size_t indent);

/// The predecessor of checksums: the SHA-256 of entries as Python prints them. Remove it together with python_dumps
/// once such files need not be read any more.
std::string old_seal(const Json& entries);

} // namespace caan::detail
