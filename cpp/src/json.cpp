#include "json.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <utility>

#include "text.hpp"

namespace caan::detail {
namespace {

// About the limit of Python's reader; printing and freeing values is recursive too.
constexpr int DEEPEST = 900;
constexpr std::size_t LONGEST_MESSAGE = 200;

/// The reader's message without its prefix, with control characters escaped, since it quotes the input.
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

/// The marker that quote_names puts before a number's name. A file that contains the marker itself gets the number.
constexpr const char* MARK = "\x01number ";
constexpr const char* ESCAPED_MARK = "\\u0001number ";
constexpr std::pair<const char*, double> NAMED[] = {{"NaN", std::numeric_limits<double>::quiet_NaN()},
                                                    {"Infinity", std::numeric_limits<double>::infinity()},
                                                    {"-Infinity", -std::numeric_limits<double>::infinity()}};

/// The text with named numbers (NaN, Infinity) as marked strings, since the reader does not support them.
std::string quote_names(const std::string& text) {
    std::string result;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto* const name = std::find_if(std::begin(NAMED), std::end(NAMED), [&](const auto& named) {
            return !in_string && text.compare(i, std::strlen(named.first), named.first) == 0;
        });
        if (name != std::end(NAMED)) {
            result.append("\"").append(ESCAPED_MARK).append(name->first).append("\"");
            i += std::strlen(name->first) - 1;
            continue;
        }
        result += text[i];
        if (in_string && text[i] == '\\' && i + 1 < text.size()) {
            result += text[++i];
        } else if (text[i] == '"') {
            in_string = !in_string;
        }
    }
    return result;
}

/// Turns marked strings into the numbers they name.
template <typename AnyJson> void restore_numbers(AnyJson& value) {
    if (value.is_object()) {
        for (auto item = value.begin(); item != value.end(); ++item) {
            if (item.key().rfind(MARK, 0) == 0) {
                throw JsonError("expecting a property's name in double quotes");
            }
        }
    }
    if (value.is_structured()) {
        for (AnyJson& item : value) {
            restore_numbers(item);
        }
    } else if (value.is_string()) {
        for (const auto& [name, number] : NAMED) {
            if (value == MARK + std::string(name)) {
                value = number;
                return;
            }
        }
    }
}

template <typename AnyJson> AnyJson parse(const std::string& text) {
    const std::string mark = BYTE_ORDER_MARK;
    if (text.rfind(mark + mark, 0) == 0) {
        throw JsonError("Unexpected UTF-8 BOM (decode using utf-8-sig)");
    }
    if (text.rfind(mark, 0) == 0) {
        return parse<AnyJson>(text.substr(mark.size()));
    }
    const auto check_depth = [](int depth, typename AnyJson::parse_event_t, AnyJson&) {
        if (depth > DEEPEST) {
            throw JsonError("maximum recursion depth exceeded while decoding JSON");
        }
        return true;
    };
    try {
        if (text.find("NaN") == std::string::npos && text.find("Infinity") == std::string::npos) {
            return AnyJson::parse(text, check_depth);
        }
        auto value = AnyJson::parse(quote_names(text), check_depth);
        restore_numbers(value);
        return value;
    } catch (const typename AnyJson::exception& error) {
        throw JsonError(shown(error.what()));
    }
}

template <typename AnyJson, typename Print>
std::string listed(const AnyJson& value, const Print& print, const char* open, const char* close) {
    std::string text = open;
    for (auto item = value.begin(); item != value.end(); ++item) {
        text += (item == value.begin() ? "" : ", ") + print(item);
    }
    return text + close;
}

template <typename AnyJson> std::string python_repr(const AnyJson& value) {
    if (value.is_string()) {
        return ascii_repr(decode(value.template get_ref<const std::string&>()));
    }
    return python_str(value);
}

/// Python's repr of a finite float: the fewest digits that round-trip.
std::string float_repr(double value) {
    std::array<char, 32> text{};
    auto* const end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::scientific).ptr;
    std::string digits(text.data(), end); // -d.ddde+XX
    const std::size_t at = digits.find('e');
    const int exponent = std::stoi(digits.substr(at + 1));
    if (exponent < -4 || exponent >= 16) {
        return digits;
    }
    digits.resize(at);
    const std::string sign = digits[0] == '-' ? "-" : "";
    digits.erase(0, sign.size());
    digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
    if (exponent < 0) {
        return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    }
    const auto whole = static_cast<std::size_t>(exponent) + 1;
    digits.resize(std::max(digits.size(), whole + 1), '0');
    return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

template <typename AnyJson> std::string number_text(const AnyJson& value, const char* nan, const char* infinity) {
    if (!value.is_number_float()) {
        return value.dump();
    }
    const auto number = value.template get<double>();
    if (std::isnan(number)) {
        return nan;
    }
    return std::isinf(number) ? (number < 0 ? "-" : "") + std::string(infinity) : float_repr(number);
}

} // namespace

Json parse_json(const std::string& text) { return parse<Json>(text); }

OrderedJson parse_ordered(const std::string& text) { return parse<OrderedJson>(text); }

template <typename AnyJson> bool equals(const AnyJson& value, std::uint64_t number) {
    if (value.is_boolean()) {
        return value.template get<bool>() == (number == 1) && number <= 1;
    }
    return value.is_number() && value == AnyJson(number);
}

bool is_falsy(const Json& value) {
    if (value.is_string()) {
        return value.get_ref<const std::string&>().empty();
    }
    return value.is_structured() ? value.empty() : value.is_null() || equals(value, 0);
}

template <typename AnyJson> std::string python_str(const AnyJson& value) {
    const auto item_text = [](const auto& item) { return python_repr(*item); };
    const auto member_text = [](const auto& item) {
        return python_repr(AnyJson(item.key())) + ": " + python_repr(item.value());
    };
    switch (value.type()) {
    case AnyJson::value_t::null:
        return "None";
    case AnyJson::value_t::boolean:
        return value.template get<bool>() ? "True" : "False";
    case AnyJson::value_t::string:
        return value.template get<std::string>();
    case AnyJson::value_t::array:
        return listed(value, item_text, "[", "]");
    case AnyJson::value_t::object:
        return listed(value, member_text, "{", "}");
    default:
        return number_text(value, "nan", "inf");
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
    return value.is_number() ? number_text(value, "NaN", "Infinity") : value.dump(-1, ' ', only_ascii);
}

template bool equals(const Json&, std::uint64_t);
template bool equals(const OrderedJson&, std::uint64_t);
template std::string python_str(const Json&);
template std::string python_str(const OrderedJson&);

} // namespace caan::detail
