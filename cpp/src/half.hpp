/// float16 ↔ float32. ONNX Runtime's Cast does the same, but a call costs more than converting a tile here.
#pragma once

#include <cstdint>
#include <cstring>

#include <onnxruntime_float16.h>

namespace caan::detail {

/// Exact for every value. Branch-free, so that compilers vectorize it.
inline float half_to_float(std::uint16_t half) {
    const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7FFF) << 13;
    float value = 0;
    std::memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112F; // moves the exponent, and makes subnormals normal
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    // Infinity and NaN keep the largest exponent.
    bits |= magnitude >= 0x0F800000U ? 0x7F800000U : 0U;
    bits |= static_cast<std::uint32_t>(half & 0x8000) << 16;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

/// Rounded to nearest, ties to even; overflows to infinity.
inline std::uint16_t float_to_half(float value) {
    struct Half : onnxruntime_float16::Float16Impl<Half> {
        static std::uint16_t bits(float number) { return ToUint16Impl(number); }
    };
    return Half::bits(value);
}

} // namespace caan::detail
