/// caan-bench-cpp BUNDLE BACKEND FEATURES.npy CAPTIONS.txt: measures the time to open, pairs per second and resident
/// memory, and prints one line of JSON. Run by bench.py.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <caan/caan.hpp>

namespace {

constexpr int ROUNDS = 5, CALLS = 2;

template <typename Work> double seconds(const Work& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// A line of /proc/self/status, in bytes.
double memory(const std::string& name) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind(name + ":", 0) == 0) {
            return 1024 * std::stod(line.substr(name.size() + 1));
        }
    }
    return 0;
}

std::vector<caan::Caption> read_captions(const std::string& path) {
    std::ifstream file(path);
    std::vector<caan::Caption> captions;
    for (std::string line; std::getline(file, line);) {
        captions.emplace_back(line);
    }
    return captions;
}

void bench(const std::string& bundle, const std::string& backend, const std::string& features,
           const std::string& captions) {
    caan::Options options;
    options.backend = backend;
    options.device = "cpu";
    // The fastest for onnxruntime on a CPU; native ignores both.
    options.tile_bytes = std::size_t{8} << 20;
    options.workers = backend == "onnxruntime" ? 2 : 0;

    const caan::Retriever retriever = caan::Retriever::open(bundle, options);
    const caan::Gallery images = retriever.encode_images(caan::FeatureFile::open(features).features());
    const caan::Gallery texts = retriever.encode_captions(read_captions(captions));
    std::vector<float> scores(images.size() * texts.size());
    double best = 1e9;
    for (int call = 0; call < CALLS; ++call) {
        best = std::min(best, seconds([&] { retriever.score_matrix(images, texts, scores.data()); }));
    }
    const double resident = memory("VmRSS");
    std::vector<double> openings;
    for (int round = 0; round < ROUNDS; ++round) {
        std::optional<caan::Retriever> another; // closed after the clock has stopped
        openings.push_back(seconds([&] { another.emplace(caan::Retriever::open(bundle, options)); }));
    }
    std::sort(openings.begin(), openings.end());
    std::printf("{\"backend\": \"%s\", \"open_seconds\": %.4f, \"pairs_per_second\": %.1f, \"resident_bytes\": %.0f}\n",
                retriever.backend(), openings[ROUNDS / 2], static_cast<double>(scores.size()) / best, resident);
}

} // namespace

int main(int count, char** arguments) {
    if (count != 5) {
        std::fprintf(stderr, "Usage: caan-bench-cpp BUNDLE BACKEND FEATURES.npy CAPTIONS.txt\n");
        return 2;
    }
    try {
        bench(arguments[1], arguments[2], arguments[3], arguments[4]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "Error: %s\n", error.what());
        return 1;
    }
}
