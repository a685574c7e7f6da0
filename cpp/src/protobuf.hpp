/// Protocol Buffers' wire format, the encoding of ONNX files, read without a library.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace caan::detail {

/// Thrown for bytes that are not a message.
struct Malformed {};

/// A field of a message: a number, or bytes (text, a message, or a fixed-size number).
struct Field {
    std::uint64_t number;
    bool is_integer;
    std::uint64_t integer;
    std::string_view bytes;
};

/// Call `take` with each field of a message, in order. Throws Malformed.
void each_field(std::string_view message, const std::function<void(const Field&)>& take);

/// The fields of a message by number.
class Fields {
public:
    /// Throws Malformed.
    explicit Fields(std::string_view message);

    const std::set<std::uint64_t>& numbers() const { return numbers_; }

    /// Every occurrence of a field of bytes, text or messages. Throws Malformed for integers.
    const std::vector<std::string_view>& all(std::uint64_t number) const;

    /// A singular message; several occurrences are merged, as parsers do, by concatenating their bytes in `space`.
    std::string_view merged(std::uint64_t number, std::string& space) const;

    /// Every occurrence of a field of integers. Throws Malformed for bytes.
    const std::vector<std::uint64_t>& integers(std::uint64_t number) const;

    /// The last occurrence of a field of text; empty if there is none.
    std::string text(std::uint64_t number) const;

private:
    std::set<std::uint64_t> numbers_;
    std::map<std::uint64_t, std::vector<std::string_view>> bytes_;
    std::map<std::uint64_t, std::vector<std::uint64_t>> integers_;
};

} // namespace caan::detail
