/// JSON, read and printed as Python does.
#pragma once

#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

namespace caan::detail {

using Json = nlohmann::json;
/// With keys in the file's order, as in Python's dict. Lookup is linear: for small objects.
using OrderedJson = nlohmann::ordered_json;

/// UTF-8's byte order mark, which some editors put before a file's text.
inline constexpr const char* BYTE_ORDER_MARK = "\xEF\xBB\xBF";

class JsonError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// NaN, Infinity and -Infinity are numbers, as in Python's reader. Throws JsonError for text that is not JSON in UTF-8,
/// is nested too deeply, or has another number out of a double's range.
Json parse_json(const std::string& text);
OrderedJson parse_ordered(const std::string& text);

/// The member of an object; null if it is missing or this is not an object.
template <typename AnyJson> const AnyJson& member(const AnyJson& object, const std::string& key) {
    static const AnyJson none;
    const auto found = object.is_object() ? object.find(key) : object.end();
    return object.is_object() && found != object.end() ? *found : none;
}

/// Whether this is an integer; true and 1.0 are not.
template <typename AnyJson> bool is_integer(const AnyJson& value) { return value.is_number_integer(); }

/// Python's `value == number`: true is 1, and 1.0 too. For Json and OrderedJson, as python_str.
template <typename AnyJson> bool equals(const AnyJson& value, std::uint64_t number);

/// Python's `not value`.
bool is_falsy(const Json& value);

/// Python's str of what json.loads makes of this value, but that text inside a list or object is ASCII, all else
/// escaped, and an integer beyond 64 bits is a float.
template <typename AnyJson> std::string python_str(const AnyJson& value);

/// Python's json.dumps(value, sort_keys=True).
std::string python_dumps(const Json& value);

} // namespace caan::detail
