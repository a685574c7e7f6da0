/// Feature files: the .npy header in its three versions, and files that are invalid or unusable.
#include "npy.hpp"

#include <cstring>

#include "features.hpp"
#include "helpers.hpp"

using caan_test::Copy;
using caan_test::has;
using caan_test::refused;

namespace {

std::string npy(const std::string& header, const std::string& values, char version = 1) {
    std::string file = "\x93NUMPY";
    file += {version, '\0'};
    for (int i = 0; i < (version == 1 ? 2 : 4); ++i) {
        file += static_cast<char>(header.size() >> 8 * i & 0xFF);
    }
    return file + header + values;
}

std::string header(const std::string& descr, const std::string& shape, const std::string& fortran = "False") {
    return "{'descr': '" + descr + "', 'fortran_order': " + fortran + ", 'shape': " + shape + ", }\n";
}

/// 2 × 1 × 3 values: 0, 1, …, 5.
template <typename T> std::string six() {
    const T values[] = {0, 1, 2, 3, 4, 5};
    return {reinterpret_cast<const char*>(values), sizeof values};
}

struct File {
    Copy folder{"galleries/texts"};
    std::string path = (folder / "x.npy").string();

    explicit File(const std::string& content) { caan_test::write(path, content); }
    std::string message() const {
        return refused<caan::DataError>([&] { caan::FeatureFile::open(path); });
    }
};

const char* const DAMAGED = " is a damaged or truncated .npy file; copy it again, or save it again with numpy.save";

} // namespace

TEST_CASE("headers of version 1, 2 and 3 are read") {
    const char version = GENERATE('\1', '\2', '\3');
    const File file(npy(header("<f4", "(2, 1, 3)"), six<float>(), version));
    const caan::FeatureFile opened = caan::FeatureFile::open(file.path);
    const caan::Features& features = opened.features();
    CHECK(features.shape == std::vector<std::size_t>{2, 1, 3});
    CHECK(features.dtype == caan::Dtype::float32);
    float values[6];
    caan::detail::to_float32(features, 0, 6, values);
    CHECK(values[5] == 5);
}

TEST_CASE("keys in any order and either quotes, with or without a last comma") {
    const std::string text =
        GENERATE(as<std::string>{}, "{\"shape\":(2,1,3),\"fortran_order\":False,\"descr\":\"<f4\"}",
                 "{'shape': (2, 1, 3,), 'descr': '<f4', 'fortran_order': False, }   \n");
    CHECK(caan::FeatureFile::open(File(npy(text, six<float>())).path).features().shape.size() == 3);
}

TEST_CASE("unaligned float64 and float32 after a header of odd length are read") {
    // The values are unaligned: no aligned read may touch them.
    const File file(npy(header("<f8", "(2, 1, 3)") + " ", six<double>()));
    const caan::FeatureFile opened = caan::FeatureFile::open(file.path);
    float values[2];
    caan::detail::to_float32(opened.features(), 4, 2, values);
    CHECK(values[0] == 4);
    CHECK(values[1] == 5);
}

TEST_CASE("float16 values, subnormal and infinite ones too") {
    const std::uint16_t halves[] = {0x3C00, 0x8000, 0x0001, 0x03FF, 0x7BFF, 0x7C00, 0xFC00, 0xC000};
    const float expected[] = {1, -0.0F, 0x1p-24F, 0x3FFp-24F, 65504, INFINITY, -INFINITY, -2};
    float values[8];
    caan::detail::to_float32({halves, {1, 1, 8}, caan::Dtype::float16}, 0, 8, values);
    CHECK(std::memcmp(values, expected, sizeof values) == 0);
}

TEST_CASE("a file cut anywhere is refused") {
    const std::string whole = npy(header("<f4", "(2, 1, 3)"), six<float>());
    for (std::size_t kept = 0; kept < whole.size(); ++kept) {
        const File file(whole.substr(0, kept));
        REQUIRE(file.message() == file.path + DAMAGED);
    }
}

TEST_CASE("shapes whose product overflows are refused") {
    const std::string shape =
        GENERATE(as<std::string>{}, "(4294967296, 4294967296, 4)", "(2, 1, 4611686018427387905)",
                 "(18446744073709551615, 18446744073709551615, 18446744073709551615)", "(2, 1, 99999999999999999999)",
                 "(9223372036854775807, 2, 3)", "(2, 1, 18446744073709551619)", "(2, 1, 4)");
    const File file(npy(header("<f4", shape), six<float>()));
    CHECK(file.message() == file.path + DAMAGED);
}

TEST_CASE("invalid headers") {
    const std::string text = GENERATE(as<std::string>{}, "", "{", "{}", "[]", "{'descr': '<f4'}",
                                      "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
                                      "{'descr': '<f4', 'fortran_order': False, 'shape': 6}",
                                      "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
                                      "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 3), 'x': 'y'}",
                                      "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 3)} x",
                                      "{'descr': '<f4\\'', 'fortran_order': False, 'shape': (2, 1, 3)}",
                                      "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 1, 3)}");
    const File file(npy(text, six<float>()));
    CHECK(file.message() == file.path + DAMAGED);
}

TEST_CASE("files of another format, version or kind") {
    CHECK(has(File("").message(), DAMAGED));
    CHECK(has(File("no numbers at all").message(),
              " is not an .npy file; save its array with numpy.save, or convert it: caan data convert"));
    CHECK(has(File(npy(header("<f4", "(2, 1, 3)"), six<float>(), 4)).message(), DAMAGED));
    CHECK(has(File("PK\x03\x04 and so on").message(), "holds several arrays (.npz); save one array with numpy.save"));
    const Copy folder("galleries/texts");
    CHECK(refused<caan::DataError>([&] { caan::FeatureFile::open(folder); }) ==
          "can't read " + folder.path.string() + ": Is a directory");
    CHECK(refused<caan::DataError>([&] { caan::FeatureFile::open(folder / "nowhere.npy"); }) ==
          "can't read " + (folder / "nowhere.npy").string() + ": No such file or directory");
}

TEST_CASE("arrays of another type, shape or order") {
    const auto message = [](const std::string& descr, const std::string& shape, const std::string& fortran = "False") {
        return File(npy(header(descr, shape, fortran), six<double>() + six<double>())).message();
    };
    CHECK(has(message("<i8", "(2, 1, 3)"), " holds int64 (2, 1, 3); expected floats (images, regions, features)"));
    CHECK(has(message("<c8", "(2, 1, 3)"), " holds complex64 (2, 1, 3); expected floats"));
    CHECK(has(message("|b1", "(2, 1, 3)"), " holds bool (2, 1, 3); expected floats"));
    CHECK(has(message("<f4", "(2, 3)"), " holds float32 (2, 3); expected floats"));
    CHECK(has(message("<f4", "(6,)"), " holds float32 (6,); expected floats"));
    CHECK(has(message("<f4", "()"), " holds float32 (); expected floats"));
    CHECK(has(message("<f4", "(0, 1, 3)"), " is empty: its shape is (0, 1, 3) (images, regions, features)"));
    CHECK(has(message(">f4", "(2, 1, 3)"), " holds >f4, which caan in C++ does not read"));
    CHECK(has(message("<f16", "(2, 1, 3)"), " holds float128, which caan in C++ does not read"));
    CHECK(has(message("<f4", "(2, 1, 3)", "True"), " holds float32 in Fortran order, which caan in C++ does not read"));
    CHECK(has(message("|O", "(2, 1, 3)"),
              " holds Python objects, which could run code; save an array of numbers with numpy.save"));
}
