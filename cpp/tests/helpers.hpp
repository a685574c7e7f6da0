/// Shared by several tests: make_data.py's data, copies of it to damage, and error messages.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

// Catch2 version 2, or the same names of version 3.
#if __has_include(<catch2/catch.hpp>)
#include <catch2/catch.hpp>
#else
#include <catch2/catch_all.hpp>
using Catch::Approx;
#endif

#include <caan/caan.hpp>
#include <nlohmann/json.hpp>

namespace caan_test {

namespace fs = std::filesystem;
using nlohmann::json;

/// A file or folder of CAAN_TEST_DATA.
fs::path data(const std::string& name);

/// A copy of one of them, deleted with this object.
class Copy {
public:
    explicit Copy(const std::string& name);
    ~Copy();
    Copy(const Copy&) = delete;
    Copy& operator=(const Copy&) = delete;

    const fs::path path;
    fs::path operator/(const std::string& name) const { return path / name; }
    operator std::string() const { return path.string(); }
};

std::string read(const fs::path& path);
void write(const fs::path& path, const std::string& content);
json read_json(const fs::path& path);
/// A manifest or a gallery's description with a new checksum.
std::string with_checksum(json content, int indent);

/// Python's answers, as recorded by make_data.py.
const json& expected();
std::vector<std::string> captions();
std::vector<caan::Caption> caption_list();
std::vector<std::int64_t> lengths();

/// (300, 5, 12), memory-mapped once.
const caan::Features& features();

/// The tiny bundle, opened once with each backend; warnings are discarded.
const caan::Retriever& retriever(const std::string& backend = "native");
/// Both: the test runs with one after the other.
inline const caan::Retriever& each_retriever() {
    return retriever(GENERATE(as<std::string>{}, "native", "onnxruntime"));
}
caan::Options quiet();

/// The features as a gallery in memory, encoded once.
const caan::Gallery& images();

/// The items deleted by make_data.py from one of the galleries.
std::vector<std::size_t> deleted();

std::vector<std::int64_t> indices(const std::vector<caan::Hit>& hits);

/// The largest difference from Python's scores; items in `skip` must be -infinity.
float difference(const caan::Matrix& found, const std::vector<std::size_t>& skip = {});

/// The message of the error thrown by `body`; fails the test if none is thrown, or if it is not of type Expected.
template <typename Expected = caan::BundleError, typename Body> std::string refused(const Body& body) {
    try {
        body();
    } catch (const Expected& error) {
        return error.what();
    }
    FAIL("nothing was refused");
    return {};
}

inline bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

} // namespace caan_test
