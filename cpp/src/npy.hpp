/// The .npy format, as numpy.load reads it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace caan::detail {

/// An .npy file's header.
struct NpyHeader {
    std::string descr; // as "<f4"
    bool fortran_order = false;
    std::vector<std::size_t> shape;
    std::size_t data_offset = 0; // offset of the array's bytes
};

class NpyError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// An array of Python objects.
class NpyObjects : public NpyError {
public:
    using NpyError::NpyError;
};

inline constexpr std::string_view NPY_MAGIC("\x93NUMPY", 6);

/// Throws NpyError unless `content` begins with a valid header, version 1 to 3, of a plain dtype.
NpyHeader parse_npy_header(std::string_view content);

/// numpy's name of a dtype: "<f4" → "float32"; an unknown one is returned unchanged.
std::string dtype_name(const std::string& descr);

/// Python's str of a shape: "(3, 36, 2048)", "(3,)".
std::string shape_str(const std::vector<std::size_t>& shape);

} // namespace caan::detail
