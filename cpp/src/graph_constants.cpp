#include "graph_constants.hpp"

#include <cstdint>
#include <cstring>
#include <functional>

namespace caan::detail {
namespace {

// onnx.proto's numbers of the fields, of a type and of Protocol Buffers' wire types.
constexpr std::uint64_t GRAPH = 7, INITIALIZER = 5, DIMS = 1, DATA_TYPE = 2, FLOAT_DATA = 4, RAW_DATA = 9;
constexpr std::uint64_t FLOAT = 1;
constexpr std::uint64_t VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5;

/// Gets a field's number, and its value: a number, or bytes.
using Take = std::function<bool(std::uint64_t field, std::uint64_t number, std::string_view bytes)>;

/// Cut the next number off the front.
std::optional<std::uint64_t> varint(std::string_view& message) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 70 && !message.empty(); shift += 7) {
        const auto byte = static_cast<unsigned char>(message.front());
        message.remove_prefix(1);
        value |= shift < 64 ? static_cast<std::uint64_t>(byte & 0x7FU) << shift : 0;
        if (byte < 0x80) {
            return value;
        }
    }
    return {};
}

/// Whether the message could be read to its end, and `take` agreed to each field.
bool each_field(std::string_view message, const Take& take) {
    while (!message.empty()) {
        const std::optional<std::uint64_t> key = varint(message);
        if (!key) {
            return false;
        }
        const std::uint64_t wire = *key & 7;
        std::optional<std::uint64_t> size;
        if (wire == VARINT || wire == BYTES) {
            size = varint(message);
        } else if (wire == FIXED64 || wire == FIXED32) {
            size = wire == FIXED64 ? 8 : 4;
        }
        if (!size || (wire != VARINT && *size > message.size())) {
            return false;
        }
        const std::string_view bytes = wire == VARINT ? std::string_view() : message.substr(0, *size);
        if (!take(*key >> 3, wire == VARINT ? *size : 0, bytes)) {
            return false;
        }
        message.remove_prefix(bytes.size());
    }
    return true;
}

/// Adds a tensor's number, if it is of float32 and one.
bool add_scalar(std::string_view tensor, std::set<float>& found) {
    std::uint64_t dims = 1, type = 0;
    std::string_view data;
    const bool is_whole = each_field(tensor, [&](std::uint64_t field, std::uint64_t number, std::string_view bytes) {
        dims = field == DIMS && bytes.empty() ? number : dims;
        type = field == DATA_TYPE ? number : type;
        data = field == RAW_DATA || (field == FLOAT_DATA && data.empty()) ? bytes : data;
        return true;
    });
    if (is_whole && dims == 1 && type == FLOAT && data.size() == sizeof(float)) {
        float value = 0;
        std::memcpy(&value, data.data(), sizeof value);
        found.insert(value);
    }
    return is_whole;
}

} // namespace

std::optional<std::set<float>> float_scalars(std::string_view content) {
    std::set<float> found;
    const bool is_whole = each_field(content, [&](std::uint64_t field, std::uint64_t, std::string_view graph) {
        return field != GRAPH || each_field(graph, [&](std::uint64_t inner, std::uint64_t, std::string_view tensor) {
                   return inner != INITIALIZER || add_scalar(tensor, found);
               });
    });
    return is_whole ? std::optional(found) : std::nullopt;
}

} // namespace caan::detail
