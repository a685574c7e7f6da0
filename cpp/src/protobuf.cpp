#include "protobuf.hpp"

#include <algorithm>

namespace caan::detail {
namespace {

constexpr std::uint64_t VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5;

/// Take the next number from the front.
std::uint64_t next_varint(std::string_view& message) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 70 && !message.empty(); shift += 7) {
        const auto byte = static_cast<unsigned char>(message.front());
        message.remove_prefix(1);
        value |= static_cast<std::uint64_t>(byte & 0x7FU) << std::min(shift, 63U);
        if (byte < 0x80U) {
            return value;
        }
    }
    throw Malformed{};
}

/// Take the value of a field that is not a number from the front.
std::string_view next_bytes(std::string_view& message, std::uint64_t wire) {
    if (wire != FIXED64 && wire != BYTES && wire != FIXED32) {
        throw Malformed{};
    }
    const std::uint64_t size = wire == BYTES ? next_varint(message) : wire == FIXED64 ? 8 : 4;
    if (size > message.size()) {
        throw Malformed{};
    }
    const std::string_view bytes = message.substr(0, size);
    message.remove_prefix(size);
    return bytes;
}

template <typename Value>
const std::vector<Value>& found_in(const std::map<std::uint64_t, std::vector<Value>>& fields, std::uint64_t number) {
    static const std::vector<Value> none;
    const auto found = fields.find(number);
    return found == fields.end() ? none : found->second;
}

} // namespace

void each_field(std::string_view message, const std::function<void(const Field&)>& take) {
    while (!message.empty()) {
        const std::uint64_t key = next_varint(message), wire = key & 7U;
        Field field{key >> 3U, wire == VARINT, 0, {}};
        if (field.number == 0) {
            throw Malformed{};
        }
        if (field.is_integer) {
            field.integer = next_varint(message);
        } else {
            field.bytes = next_bytes(message, wire);
        }
        take(field);
    }
}

Fields::Fields(std::string_view message) {
    each_field(message, [&](const Field& field) {
        numbers_.insert(field.number);
        if (field.is_integer) {
            integers_[field.number].push_back(field.integer);
        } else {
            bytes_[field.number].push_back(field.bytes);
        }
    });
}

const std::vector<std::string_view>& Fields::all(std::uint64_t number) const {
    if (integers_.count(number) != 0) {
        throw Malformed{};
    }
    return found_in(bytes_, number);
}

std::string_view Fields::merged(std::uint64_t number, std::string& space) const {
    const auto& parts = all(number);
    if (parts.size() == 1) {
        return parts[0];
    }
    space.clear();
    for (const std::string_view part : parts) {
        space += part;
    }
    return space;
}

const std::vector<std::uint64_t>& Fields::integers(std::uint64_t number) const {
    if (bytes_.count(number) != 0) {
        throw Malformed{};
    }
    return found_in(integers_, number);
}

std::string Fields::text(std::uint64_t number) const {
    const auto& parts = all(number);
    return parts.empty() ? "" : std::string(parts.back());
}

} // namespace caan::detail
