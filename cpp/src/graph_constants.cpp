#include "graph_constants.hpp"

#include <cstdint>
#include <cstring>
#include <map>

#include "protobuf.hpp"

namespace caan::detail {
namespace {

// Field numbers and a type of onnx.proto.
constexpr std::uint64_t GRAPH = 7, INITIALIZER = 5, DIMS = 1, DATA_TYPE = 2, FLOAT_DATA = 4, RAW_DATA = 9;
constexpr std::uint64_t FLOAT = 1;

/// Adds a tensor's value, if it is a float32 scalar.
void add_scalar(std::string_view tensor, std::set<float>& found) {
    std::map<std::uint64_t, Field> fields; // of repeated dims only the last
    each_field(tensor, [&](const Field& field) { fields[field.number] = field; });
    const auto is_integer = [&](std::uint64_t number, std::uint64_t value) {
        return fields.count(number) != 0 && fields[number].is_integer && fields[number].integer == value;
    };
    const bool is_one = fields.count(DIMS) == 0 || is_integer(DIMS, 1);
    const std::string_view data = fields[fields.count(RAW_DATA) != 0 ? RAW_DATA : FLOAT_DATA].bytes;
    if (is_one && is_integer(DATA_TYPE, FLOAT) && data.size() == sizeof(float)) {
        float value = 0;
        std::memcpy(&value, data.data(), sizeof value);
        found.insert(value);
    }
}

/// Call `take` with each message in a field.
template <typename Take> void each_message(std::string_view content, std::uint64_t number, const Take& take) {
    each_field(content, [&](const Field& field) {
        if (field.number == number && !field.is_integer) {
            take(field.bytes);
        }
    });
}

} // namespace

std::optional<std::set<float>> float_scalars(std::string_view content) {
    std::set<float> found;
    try {
        each_message(content, GRAPH, [&](std::string_view graph) {
            each_message(graph, INITIALIZER, [&](std::string_view tensor) { add_scalar(tensor, found); });
        });
    } catch (const Malformed&) {
        return std::nullopt;
    }
    return found;
}

} // namespace caan::detail
