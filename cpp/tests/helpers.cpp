#include "helpers.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <stdexcept>

#include <unistd.h>

#include "files.hpp"

namespace caan_test {
namespace {

fs::path new_folder() {
    static std::atomic<int> number{0};
    const std::string name = "caan-tests-" + std::to_string(::getpid()) + "-" + std::to_string(number++);
    const fs::path folder = fs::temp_directory_path() / name;
    fs::create_directories(folder);
    return folder;
}

} // namespace

fs::path data(const std::string& name) {
    const char* folder = std::getenv("CAAN_TEST_DATA");
    if (folder == nullptr) {
        throw std::runtime_error("set CAAN_TEST_DATA to a folder that cpp/tests/make_data.py made; make test-cpp does");
    }
    return fs::path(folder) / name;
}

Copy::Copy(const std::string& name) : path(new_folder() / fs::path(name).filename()) {
    fs::copy(data(name), path, fs::copy_options::recursive);
}

Copy::~Copy() {
    std::error_code ignored;
    fs::remove_all(path.parent_path(), ignored);
}

std::string read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void write(const fs::path& path, const std::string& content) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << content;
    file.close();
    REQUIRE(file.good());
}

json read_json(const fs::path& path) { return json::parse(read(path)); }

std::string with_checksum(json content, int indent) {
    content.erase("checksum");
    const std::string text = content.dump(indent), above = text.substr(0, text.size() - 2) + ",";
    return above + "\n" + std::string(static_cast<std::size_t>(indent), ' ') + "\"checksum\": \"" +
           caan::detail::sha256_of(above.data(), above.size()) + "\"\n}\n";
}

const json& expected() {
    static const json content = read_json(data("expected.json"));
    return content;
}

std::vector<std::string> captions() { return expected()["captions"].get<std::vector<std::string>>(); }

std::vector<caan::Caption> caption_list() {
    const std::vector<std::string> texts = captions();
    return {texts.begin(), texts.end()};
}

std::vector<std::int64_t> lengths() { return expected()["lengths"].get<std::vector<std::int64_t>>(); }

const caan::Features& features() {
    static const caan::FeatureFile file = caan::FeatureFile::open(data("features.npy"));
    return file.features();
}

caan::Options quiet() {
    caan::Options options;
    options.device = "cpu";
    options.threads = 2;
    options.warn = [](const std::string&) {};
    return options;
}

const caan::Retriever& retriever(const std::string& backend) {
    static std::map<std::string, caan::Retriever> opened;
    auto found = opened.find(backend);
    if (found == opened.end()) {
        caan::Options options = quiet();
        options.backend = backend;
        found = opened.emplace(backend, caan::Retriever::open(data("model.caan"), options)).first;
    }
    return found->second;
}

const caan::Gallery& images() {
    static const caan::Gallery gallery = retriever().encode_images(features(), lengths());
    return gallery;
}

std::vector<std::size_t> deleted() { return expected()["deleted"].get<std::vector<std::size_t>>(); }

std::vector<std::int64_t> indices(const std::vector<caan::Hit>& hits) {
    std::vector<std::int64_t> found;
    for (const caan::Hit& hit : hits) {
        found.push_back(hit.index);
    }
    return found;
}

float difference(const caan::Matrix& found, const std::vector<std::size_t>& skip) {
    using Rows = std::vector<std::vector<float>>;
    static const Rows expected_scores = expected()["scores"].get<Rows>();
    REQUIRE(found.rows == expected_scores.size());
    REQUIRE(found.columns == expected_scores[0].size());
    float largest = 0;
    int wrong = 0;
    for (std::size_t i = 0; i < found.rows; ++i) {
        const bool is_skipped = std::find(skip.begin(), skip.end(), i) != skip.end();
        for (std::size_t j = 0; j < found.columns; ++j) {
            const float score = found(i, j);
            const bool is_good = is_skipped ? score == -std::numeric_limits<float>::infinity() : std::isfinite(score);
            wrong += is_good ? 0 : 1;
            largest = is_skipped ? largest : std::max(largest, std::abs(score - expected_scores[i][j]));
        }
    }
    REQUIRE(wrong == 0);
    return largest;
}

} // namespace caan_test
