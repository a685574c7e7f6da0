/// Region features: files, and conversion to the image encoder's input.
#pragma once

#include <cstddef>
#include <string>

#include <caan/caan.hpp>

#include "files.hpp"
#include "half.hpp"

namespace caan {

struct FeatureFile::Content {
    explicit Content(const std::string& path);
    ~Content();
    Content(const Content&) = delete;
    Content& operator=(const Content&) = delete;

    /// Call before and after reading features from a file: reading beyond the end of a truncated file ends the process.
    /// Throws DataError if the file was truncated.
    static void check(const Features& features);

    struct OpenFiles;
    static OpenFiles& open_files();

    const std::string path;
    const detail::MappedFile file;
    Features features;
};

namespace detail {

/// Copy `count` values, starting at number `start`, to float32.
void to_float32(const Features& features, std::size_t start, std::size_t count, float* out);

} // namespace detail
} // namespace caan
