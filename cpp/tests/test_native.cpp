/// Backend `native`: when it is chosen, what it refuses, and that its scores do not depend on the blocks.
#include <algorithm>
#include <cmath>

#include <kernel.hpp>

#include "helpers.hpp"

using namespace caan_test;
using caan::Gallery;

namespace {

caan::Options with(const std::string& backend, const std::string& precision = "fp32") {
    caan::Options options = quiet();
    options.backend = backend;
    options.precision = precision;
    return options;
}

/// An older bundle without the scorer's weights.
void age(const Copy& bundle) {
    json manifest = read_json(bundle / "manifest.json");
    manifest["files"].erase("scorer_weights.npy");
    write(bundle / "manifest.json", with_checksum(manifest, 2));
    fs::remove(bundle / "scorer_weights.npy");
}

} // namespace

TEST_CASE("auto is native on a CPU, for the precisions it supports") {
    const std::string bundle = data("model.caan");
    CHECK(caan::Retriever::open(bundle, with("auto")).backend() == std::string("native"));
    CHECK(caan::Retriever::open(bundle, with("auto", "fp16")).backend() == std::string("native"));
    CHECK(caan::Retriever::open(bundle, with("onnxruntime")).backend() == std::string("onnxruntime"));
    // Refused as ONNX Runtime's precision, not as native's.
    CHECK(refused([&] { caan::Retriever::open(bundle, with("auto", "int8")); }) ==
          bundle + " has no precision 'int8'; it has: fp32, fp16");
}

TEST_CASE("an older bundle without the scorer's weights: auto falls back, native names the remedy") {
    const Copy bundle("model.caan");
    age(bundle);
    const caan::Retriever old = caan::Retriever::open(bundle, with("auto"));
    CHECK(old.backend() == std::string("onnxruntime"));
    CHECK(difference(old.score_matrix(images(), caption_list())) <= 1e-5F);
    const std::string folder = bundle;
    CHECK(refused([&] { caan::Retriever::open(bundle, with("native")); }) ==
          folder +
              " was exported before bundles held scorer_weights.npy; export the checkpoint again: caan-export"
              " model.pt -o " +
              folder + " --overwrite");
}

TEST_CASE("bf16 rounds only the factors of the scorer's products, on processors with bfloat16 instructions") {
    if (!caan::kernels::has_native_bfloat16()) {
        CHECK(refused<caan::MissingError>([&] { caan::Retriever::open(data("model.caan"), with("native", "bf16")); }) ==
              "this processor has no instructions for bfloat16 (AVX512-BF16, AMX); use precision fp32");
        return;
    }
    const std::string backend = GENERATE(as<std::string>{}, "native", "auto");
    const caan::Retriever rounding = caan::Retriever::open(data("model.caan"), with(backend, "bf16"));
    CHECK(rounding.backend() == std::string("native"));
    // The states are fp32's: galleries of one are galleries of the other.
    const float largest = difference(rounding.score_matrix(images(), caption_list()));
    CHECK((largest > 1e-5F && largest < 2e-2F));
}

TEST_CASE("more images and captions than one call takes") {
    // Four times the images and the captions, in one encoder's pieces or as galleries: each pair's score is unchanged.
    const auto* values = static_cast<const float*>(features().data);
    std::vector<float> many;
    std::vector<caan::Caption> texts;
    std::vector<std::int64_t> regions;
    for (int copy = 0; copy < 4; ++copy) {
        const std::vector<std::int64_t> once = lengths();
        const std::vector<caan::Caption> captions = caption_list();
        many.insert(many.end(), values, values + 300 * 60);
        texts.insert(texts.end(), captions.begin(), captions.end());
        regions.insert(regions.end(), once.begin(), once.end());
    }
    const Gallery gallery = retriever().encode_images({many.data(), 1200, 5, 12}, regions);
    const caan::Matrix encoded = retriever().score_matrix(gallery, texts),
                       galleries = retriever().score_matrix(gallery, retriever().encode_captions(texts)),
                       expected_scores = retriever().score_matrix(images(), caption_list());
    float largest = 0;
    for (std::size_t i = 0; i < 1200; ++i) {
        for (std::size_t j = 0; j < texts.size(); ++j) {
            const float score = expected_scores(i % 300, j % 40);
            largest = std::max({largest, std::abs(encoded(i, j) - score), std::abs(galleries(i, j) - score)});
        }
    }
    CHECK(largest < 2e-6F);
}
