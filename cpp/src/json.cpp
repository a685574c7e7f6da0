#include "json.hpp"

#include <algorithm>

#include "text.hpp"

namespace caan::detail {
namespace {

// Python's reader gives up at about this depth; what prints and frees values is recursive too.
constexpr int DEEPEST = 900;
constexpr std::size_t LONGEST_MESSAGE = 200;

/// The reader's message without its own name in front, as text that can be shown: it quotes what it read.
std::string shown(const std::string& message) {
    // "[json.exception.parse_error.101] parse error at line 1, …"
    std::u32string text = decode(message.substr(message.find("] ") + 2)).substr(0, LONGEST_MESSAGE);
    std::replace_if(
        text.begin(), text.end(),
        [](char32_t c) {
            return c == 0 || has_surrogates({&c, 1});
        },
        U'?');
    return encode(text);
}

template <typename AnyJson> AnyJson parse(const std::string& text) {
    if (text.rfind("\xEF\xBB\xBF", 0) == 0) {
        throw JsonError("Unexpected UTF-8 BOM (decode using utf-8-sig)");
    }
    const auto check_depth = [](int depth, typename AnyJson::parse_event_t, AnyJson&) {
        if (depth > DEEPEST) {
            throw JsonError("maximum recursion depth exceeded while decoding JSON");
        }
        return true;
    };
    try {
        return AnyJson::parse(text, check_depth);
    } catch (const typename AnyJson::exception& error) {
        throw JsonError(shown(error.what()));
    }
}

std::string python_repr(const Json& value);

template <typename Print>
std::string listed(const Json& value, const Print& print, const char* open, const char* close) {
    std::string text = open;
    for (auto item = value.begin(); item != value.end(); ++item) {
        text += (item == value.begin() ? "" : ", ") + print(item);
    }
    return text + close;
}

std::string python_repr(const Json& value) {
    if (value.is_string()) {
        return ascii_repr(decode(value.get_ref<const std::string&>()));
    }
    return python_str(value);
}

} // namespace

Json parse_json(const std::string& text) { return parse<Json>(text); }

OrderedJson parse_ordered(const std::string& text) { return parse<OrderedJson>(text); }

bool equals(const Json& value, std::uint64_t number) {
    if (value.is_boolean()) {
        return value.get<bool>() == (number == 1) && number <= 1;
    }
    return value.is_number() && value == Json(number);
}

bool is_falsy(const Json& value) {
    if (value.is_string()) {
        return value.get_ref<const std::string&>().empty();
    }
    return value.is_structured() ? value.empty() : value.is_null() || equals(value, 0);
}

std::string python_str(const Json& value) {
    switch (value.type()) {
    case Json::value_t::null:
        return "None";
    case Json::value_t::boolean:
        return value.get<bool>() ? "True" : "False";
    case Json::value_t::string:
        return value.get<std::string>();
    case Json::value_t::array:
        return listed(
            value, [](const auto& item) { return python_repr(*item); }, "[", "]");
    case Json::value_t::object:
        return listed(
            value, [](const auto& item) { return python_repr(Json(item.key())) + ": " + python_repr(item.value()); },
            "{", "}");
    default:
        return value.dump();
    }
}

std::string python_dumps(const Json& value) {
    if (value.is_array()) {
        return listed(
            value, [](const auto& item) { return python_dumps(*item); }, "[", "]");
    }
    if (value.is_object()) {
        return listed(
            value, [](const auto& item) { return python_dumps(Json(item.key())) + ": " + python_dumps(item.value()); },
            "{", "}");
    }
    const bool only_ascii = true;
    return value.dump(-1, ' ', only_ascii);
}

} // namespace caan::detail
