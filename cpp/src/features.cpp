#include "features.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>

#include "npy.hpp"
#include "text.hpp"

namespace caan {
namespace {

std::size_t bytes_of(Dtype dtype) { return dtype == Dtype::float16 ? 2 : dtype == Dtype::float32 ? 4 : 8; }

/// Throws DataError unless a file holds floats (N, R, F), with no size 0, that can be used in place.
Dtype check_header(const detail::NpyHeader& header, const std::string& path) {
    const std::string dtype = detail::dtype_name(header.descr), shape = detail::shape_str(header.shape);
    const bool is_float = header.descr.size() > 1 && header.descr[1] == 'f';
    if (header.shape.size() != 3 || !is_float) {
        throw DataError(path + " holds " + dtype + " " + shape + "; expected floats (images, regions, features)");
    }
    if (std::find(header.shape.begin(), header.shape.end(), 0U) != header.shape.end()) {
        throw DataError(path + " is empty: its shape is " + shape + " (images, regions, features)");
    }
    if (header.fortran_order || (dtype != "float16" && dtype != "float32" && dtype != "float64")) {
        throw DataError(path + " holds " + dtype + (header.fortran_order ? " in Fortran order" : "") +
                        ", which caan in C++ does not read; save it with"
                        " numpy.save(path, numpy.ascontiguousarray(array, 'float32'))");
    }
    return dtype == "float16" ? Dtype::float16 : dtype == "float32" ? Dtype::float32 : Dtype::float64;
}

/// Whether the file holds all bytes of the array.
bool is_whole(const detail::NpyHeader& header, Dtype dtype, std::size_t file_size) {
    std::size_t room = (file_size - header.data_offset) / bytes_of(dtype);
    return std::all_of(header.shape.begin(), header.shape.end(), [&](std::size_t size) {
        room /= size;
        return room > 0;
    });
}

} // namespace

struct FeatureFile::Content::OpenFiles {
    std::mutex lock;
    std::map<const std::byte*, const Content*> files; // by address
};

FeatureFile::Content::OpenFiles& FeatureFile::Content::open_files() {
    static auto* const all = new OpenFiles; // a file may outlive any static object
    return *all;
}

FeatureFile::Content::Content(const std::string& name) : path(name), file(name) {
    const std::lock_guard<std::mutex> lock(open_files().lock);
    open_files().files[file.data()] = this;
}

FeatureFile::Content::~Content() {
    const std::lock_guard<std::mutex> lock(open_files().lock);
    open_files().files.erase(file.data());
}

Features Features::image(std::size_t index) const {
    if (shape.size() != 3 || index >= shape[0]) {
        throw std::out_of_range("there is no image " + std::to_string(index) + " in these features");
    }
    const auto* bytes = static_cast<const std::byte*>(data);
    return {bytes + index * shape[1] * shape[2] * bytes_of(dtype), {shape[1], shape[2]}, dtype};
}

FeatureFile FeatureFile::open(const std::string& path) {
    const std::string name = detail::normal_path(path);
    std::shared_ptr<Content> content;
    try {
        content = std::make_shared<Content>(name);
    } catch (const std::system_error& error) {
        throw DataError("can't read " + name + ": " + detail::reason(error));
    }
    const std::string_view bytes(reinterpret_cast<const char*>(content->file.data()), content->file.size());
    if (bytes.substr(0, 4) == "PK\x03\x04" || bytes.substr(0, 4) == "PK\x05\x06") {
        throw DataError(name + " holds several arrays (.npz); save one array with numpy.save");
    }
    const auto damaged = [&] {
        return DataError(name +
                         " is a damaged or truncated .npy file; copy it again, or save it again with numpy.save");
    };
    if (bytes.substr(0, detail::NPY_MAGIC.size()) != detail::NPY_MAGIC.substr(0, bytes.size())) {
        throw DataError(name +
                        " is not an .npy file; save its array with numpy.save, or convert it: caan data convert");
    }
    detail::NpyHeader header;
    try {
        header = detail::parse_npy_header(bytes);
    } catch (const detail::NpyObjects&) {
        throw DataError(name + " holds Python objects, which could run code; save an array of numbers with numpy.save");
    } catch (const detail::NpyError&) {
        throw damaged();
    }
    const Dtype dtype = check_header(header, name);
    if (!is_whole(header, dtype, bytes.size())) {
        throw damaged();
    }
    content->features = Features(content->file.data() + header.data_offset, header.shape, dtype);
    FeatureFile file;
    file.content_ = std::move(content);
    return file;
}

const Features& FeatureFile::features() const noexcept { return content_->features; }

void FeatureFile::Content::check(const Features& features) {
    const auto* data = static_cast<const std::byte*>(features.data);
    const std::lock_guard<std::mutex> lock(open_files().lock);
    const auto after = open_files().files.upper_bound(data);
    if (after == open_files().files.begin()) {
        return;
    }
    const Content& content = *std::prev(after)->second;
    if (data >= content.file.data() + content.file.size()) {
        return;
    }
    const std::size_t now = content.file.status().size;
    if (now < content.file.size()) {
        throw DataError(content.path + " was truncated while it was read: " + std::to_string(now) + " bytes of " +
                        std::to_string(content.file.size()) + "; copy it again");
    }
}

namespace detail {

void to_float32(const Features& features, std::size_t start, std::size_t count, float* out) {
    // Values in a file may be unaligned: copied byte by byte, or in small pieces.
    const auto* bytes = static_cast<const std::byte*>(features.data) + start * bytes_of(features.dtype);
    if (features.dtype == Dtype::float32) {
        std::memcpy(out, bytes, count * sizeof(float));
    } else if (features.dtype == Dtype::float16) {
        for (std::size_t i = 0; i < count; ++i) {
            std::uint16_t value = 0;
            std::memcpy(&value, bytes + i * sizeof value, sizeof value);
            out[i] = half_to_float(value);
        }
    } else {
        for (std::size_t i = 0; i < count; ++i) {
            double value = 0;
            std::memcpy(&value, bytes + i * sizeof value, sizeof value);
            out[i] = static_cast<float>(value);
        }
    }
}

} // namespace detail
} // namespace caan
