/// Region features: files of them, and their conversion to what the image encoder takes.
#pragma once

#include <cstddef>
#include <string>

#include <caan/caan.hpp>

#include "files.hpp"
#include "half.hpp"

namespace caan {

struct FeatureFile::Content {
    detail::MappedFile file;
    Features features;
};

namespace detail {

/// Copy `count` values, beginning with number `start` of the features, to float32.
void to_float32(const Features& features, std::size_t start, std::size_t count, float* out);

} // namespace detail
} // namespace caan
