/// A file of features is opened and all its values can be read, or it is refused with a DataError.
#include <numeric>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "features.hpp"

namespace {

void read_all(const caan::Features& features) {
    const std::size_t values =
        std::accumulate(features.shape.begin(), features.shape.end(), std::size_t{1}, std::multiplies<>());
    std::vector<float> read(values);
    caan::detail::to_float32(features, 0, values, read.data());
    features.image(features.shape[0] - 1);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const int file = ::memfd_create("features", MFD_CLOEXEC);
    static const std::string path = "/proc/self/fd/" + std::to_string(file);
    if (::ftruncate(file, static_cast<off_t>(size)) != 0 ||
        ::pwrite(file, data, size, 0) != static_cast<ssize_t>(size)) {
        __builtin_trap();
    }
    try {
        const caan::FeatureFile opened = caan::FeatureFile::open(path);
        read_all(opened.features());
    } catch (const caan::DataError&) {
    }
    return 0;
}
