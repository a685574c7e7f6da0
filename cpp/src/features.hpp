/// Region features: files of them, and their conversion to what the image encoder takes.
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

    /// Features that lie in a file must be there still, before they are read and after: to read what is no longer there
    /// ends the process. Throws DataError if the file was shortened.
    static void check(const Features& features);

    struct OpenFiles;
    static OpenFiles& open_files();

    const std::string path;
    const detail::MappedFile file;
    Features features;
};

namespace detail {

/// Copy `count` values, beginning with number `start` of the features, to float32.
void to_float32(const Features& features, std::size_t start, std::size_t count, float* out);

} // namespace detail
} // namespace caan
