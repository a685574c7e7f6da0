/// Opening: unknown options, missing providers and prebuilt engines, and lifetimes.
#include "helpers.hpp"

using namespace caan_test;
using caan::Gallery;

TEST_CASE("unknown options, and missing providers") {
    const auto message = [](const std::string& backend, const std::string& device, int threads = 0) {
        caan::Options options = quiet();
        options.backend = backend;
        options.device = device;
        options.threads = threads;
        return refused<caan::Error>([&] { caan::Retriever::open(data("model.caan"), options); });
    };
    CHECK(message("torchvision", "auto") ==
          "unknown backend 'torchvision'; known: native, onnxruntime, tensorrt, auto");
    CHECK(message("auto", "tpu") == "unknown device 'tpu'; known: cpu, cuda, auto");
    CHECK(message("tensorrt", "cpu") ==
          "the backend 'tensorrt' runs on device 'cuda'; on 'cpu' use backend 'onnxruntime'");
    CHECK(has(message("auto", "cpu", -1), "threads and workers must be 0 or more"));
}

TEST_CASE("a missing provider is an error, never replaced by the CPU") {
    caan::Options options = quiet();
    options.device = "cuda";
    options.backend = GENERATE(as<std::string>{}, "auto", "onnxruntime", "tensorrt");
    try {
        const caan::Retriever opened = caan::Retriever::open(data("model.caan"), options);
        // On a machine with a GPU and its providers there is nothing to refuse.
        CHECK(opened.device() == "cuda");
    } catch (const caan::MissingError& error) {
        CHECK(error.exit_code() == 4);
        CHECK(has(error.what(), "can't be used: "));
        CHECK(has(error.what(), options.backend == "tensorrt" ? "the backend 'tensorrt'" : "the device 'cuda'"));
    }
}

TEST_CASE("unusable prebuilt engines are refused, never replaced by the CPU") {
    caan::Options options = quiet();
    options.device = "auto";
    options.prebuilt_engines = true;
    CHECK(refused<caan::InputError>([&] { caan::Retriever::open(data("model.caan"), options); }) ==
          "prebuilt engines run on backend 'tensorrt'; ask for that one too");
    options.backend = "tensorrt";
    const std::string folder = data("model.caan");
    CHECK(refused([&] { caan::Retriever::open(folder, options); }) ==
          folder + " has no TensorRT engine of precision 'fp32'; build one: caan-build-engine " + folder + " --fp32");
    options.precision = "int8";
    CHECK(has(refused([&] { caan::Retriever::open(folder, options); }), " --int8 --calibration-data DIR"));
}

TEST_CASE("a moved retriever keeps working, and galleries outlive it") {
    auto first = std::make_unique<caan::Retriever>(caan::Retriever::open(data("model.caan"), quiet()));
    const Gallery gallery = first->encode_images(features(), lengths());
    caan::Retriever second = std::move(*first);
    first.reset();
    const auto hits = indices(second.search("w1 w2", gallery, 3));
    second = caan::Retriever::open(data("model.caan"), quiet());
    CHECK(indices(second.search("w1 w2", gallery, 3)) == hits);
}
