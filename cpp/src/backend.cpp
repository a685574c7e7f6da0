#include "backend.hpp"

#include <algorithm>
#include <cstdio>
#include <future>
#include <set>
#include <utility>

#include "files.hpp"
#include "graph_check.hpp"
#include "machine.hpp"
#include "text.hpp"

namespace caan::detail {
namespace {

constexpr ONNXTensorElementDataType FLOAT = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ONNXTensorElementDataType HALF = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
constexpr ONNXTensorElementDataType INTEGER = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
constexpr const char* EXPANDER_FILE = "onnx/expander.fp32.onnx";

// ONNX Runtime's type of inputs is not const, though it only reads them.
void* readable(const void* data) { return const_cast<void*>(data); }

std::string type_name(ONNXTensorElementDataType type) {
    return type == FLOAT ? "tensor(float)" : type == HALF ? "tensor(float16)" : "of another type";
}

/// The input or output of this name. Throws BundleError.
const Tensor& end_of(const std::vector<Tensor>& ends, const std::string& name, const Bundle& bundle) {
    for (const Tensor& end : ends) {
        if (end.name == name && !end.shape.empty()) {
            return end;
        }
    }
    throw BundleError(bundle.folder + ": one of its graphs has no " + name + "; export the checkpoint again");
}

/// Throws BundleError for INT8 graphs that this ONNX Runtime computes incorrectly (docs/precision.md).
void check_rounding(const Bundle& bundle, const std::string& precision) {
    if (precision != "int8") {
        return;
    }
    const OrderedJson& entry = bundle.manifest["precisions"][precision];
    if (entry.is_object() && entry.contains("scales") && entry["scales"] == "float32") {
        return;
    }
    const std::string version = Ort::GetVersionString();
    int major = 0, minor = 0;
    if (std::sscanf(version.c_str(), "%d.%d", &major, &minor) == 2 && std::pair(major, minor) < std::pair(1, 30)) {
        throw BundleError("ONNX Runtime " + version + " computes the int8 graphs of " + bundle.folder +
                          " wrong, whose scales are float16; build them again: caan-build-engine " + bundle.folder +
                          " --int8 --calibration-data DIR");
    }
}

} // namespace

Backend::Backend(const Bundle& bundle, const Options& options)
    : sizes_(bundle.sizes), device_{choose_device(options.device), options.backend == "tensorrt"},
      threads_(chosen_threads(options.threads)), folder_(bundle.folder) {
    const std::string precision = graph_precision(options.precision);
    if (takes_native(bundle, options)) {
        device_.name = "cpu";
        native_ = native_scorer(bundle, options.precision, threads_);
    }
    if (options.prebuilt_engines) {
        open_engine(bundle, precision, options.trust_engines);
    }
    bundle.require_precision(precision);
    vocabulary_ = Vocabulary::parse(bundle.content(VOCABULARY_FILE), normal_path(bundle.path(VOCABULARY_FILE)));
    encoder_files_ = {graph_file("image_encoder", precision), graph_file("text_encoder", precision)};
    encoders_ = {bundle.hash_of(encoder_files_[0]), bundle.hash_of(encoder_files_[1])};
    if (bundle.manifest["files"].contains(EXPANDER_FILE)) {
        expander_hash_ = bundle.hash_of(EXPANDER_FILE);
    }
    if (device_.tensorrt) {
        device_.name = "cuda";
    }
    try {
        if (!options.prebuilt_engines) {
            open_sessions(bundle, precision);
        }
    } catch (const MissingError&) {
        if (options.device != "auto" || device_.tensorrt) {
            throw;
        }
        // ONNX Runtime for GPUs without a usable GPU: "auto" falls back to the CPU.
        device_.name = "cpu";
        open_sessions(bundle, precision);
    }
    check_sizes(bundle);
    state_dtype_ = common_state_type(bundle, precision);
}

bool Backend::takes_native(const Bundle& bundle, const Options& options) const {
    if (options.backend != "auto") {
        return options.backend == "native";
    }
    // Only the kernel supports bf16: a bundle without its weights is refused.
    return options.precision != graph_precision(options.precision) ||
           (device_.name == "cpu" && has_native(bundle, options.precision));
}

void Backend::open_sessions(const Bundle& bundle, const std::string& precision) {
    check_rounding(bundle, precision);
    const auto read = [&](const char* graph) {
        const std::string file = graph_file(graph, precision), path = normal_path(bundle.path(file));
        std::string content = bundle.content(file);
        check_graph(bundle.folder, bundle.sizes, graph, path, content);
        return std::make_pair(std::move(content), path);
    };
    const auto open = [&](const char* graph, int threads, Calls calls) {
        const auto [content, path] = read(graph);
        return Session(content, path, device_, threads, calls);
    };
    // Without all optimisations, graphs of other precisions are slow or round differently.
    const Calls encoding = device_.name == "cpu" && precision == "fp32" ? Calls::few : Calls::many;
    // Optimising a graph keeps one core busy: the larger ones are opened in parallel.
    auto text_encoder = std::async(std::launch::async, open, "text_encoder", threads_, encoding);
    if (native_ == nullptr) {
        const auto [content, path] = read("scorer");
        scorer_.emplace(content, path, device_, threads_, Calls::many);
        if (device_.name == "cpu" && threads_ > 1) {
            // Threads of one call wait for each other after every product; single-threaded calls don't.
            single_scorer_.emplace(content, path, device_, 1, Calls::many);
        }
    }
    image_encoder_.emplace(open("image_encoder", threads_, encoding));
    text_encoder_.emplace(text_encoder.get());
}

void Backend::open_engine(const Bundle& bundle, const std::string& precision, bool trust_engines) {
    bundle.verify(); // an engine's graph names its plan, which ONNX Runtime reads
    const Engine engine = choose_engine(bundle, precision, trust_engines);
    image_encoder_.emplace(engine.graphs.at("image_encoder"), threads_);
    text_encoder_.emplace(engine.graphs.at("text_encoder"), threads_);
    scorer_.emplace(engine.graphs.at("scorer"), threads_);
    most_ = engine.most;
    sizes_.most_regions = std::min(sizes_.most_regions, most_.regions);
    sizes_.most_words = std::min(sizes_.most_words, most_.words);
}

void Backend::encode_images(const float* features, std::int64_t images, std::int64_t regions, void* states) const {
    const ONNXTensorElementDataType type = state_dtype_ == Dtype::float16 ? HALF : FLOAT;
    image_encoder_->run({{"features", readable(features), FLOAT, {images, regions, sizes_.region_dim}}},
                        {"image_states", states, type, {images, regions, sizes_.state_width(Kind::image)}});
}

void Backend::encode_captions(const std::int64_t* tokens, const std::int64_t* lengths, std::int64_t captions,
                              std::int64_t words, void* states) const {
    const ONNXTensorElementDataType type = state_dtype_ == Dtype::float16 ? HALF : FLOAT;
    text_encoder_->run({{"tokens", readable(tokens), INTEGER, {captions, words}},
                        {"text_lengths", readable(lengths), INTEGER, {captions}}},
                       {"text_states", states, type, {captions, words, sizes_.state_width(Kind::text)}});
}

void Backend::score(const Padded& images, const Padded& captions, float* scores, bool alone) const {
    const ONNXTensorElementDataType type = state_dtype_ == Dtype::float16 ? HALF : FLOAT;
    const std::int64_t image_width = sizes_.state_width(Kind::image), text_width = sizes_.state_width(Kind::text);
    (alone ? single_scorer_ : scorer_)
        ->run({{"image_states", readable(images.states), type, {images.items, images.longest, image_width}},
               {"image_lengths", readable(images.lengths), INTEGER, {images.items}},
               {"text_states", readable(captions.states), type, {captions.items, captions.longest, text_width}},
               {"text_lengths", readable(captions.lengths), INTEGER, {captions.items}}},
              {"scores", scores, FLOAT, {images.items, captions.items}});
}

void Backend::expand_regions(const float* regions, std::int64_t images, std::int64_t longest, float* states) const {
    const Session& session = expander();
    session.run({{session.inputs()[0].name.c_str(), readable(regions), FLOAT, {images, longest, sizes_.embed_dim}}},
                {session.outputs()[0].name.c_str(), states, FLOAT, {images, longest, sizes_.state_width(Kind::image)}});
}

const Session& Backend::expander() const {
    const std::lock_guard<std::mutex> one_at_a_time(opening_);
    if (expander_ != nullptr) {
        return *expander_;
    }
    if (expander_hash_.empty()) {
        throw BundleError(folder_ +
                          " has no expander graph: it is older than that graph; export the checkpoint again:"
                          " caan-export model.pt -o " +
                          folder_ + " --overwrite");
    }
    const std::string path = folder_ + "/" + EXPANDER_FILE;
    std::string content;
    try {
        content = read_file(path);
    } catch (const std::system_error& error) {
        throw BundleError("can't read " + path + ": " + reason(error) + "; open the bundle again");
    }
    // Hashed and loaded from the same bytes: no change can slip in between.
    if (sha256_of(content.data(), content.size()) != expander_hash_) {
        throw BundleError(path + " is not the file this bundle was opened with, it was replaced; open it again");
    }
    check_graph(folder_, sizes_, EXPANDER, path, content);
    expander_ = std::make_unique<Session>(content, path, Device{"cpu"}, threads_, Calls::many);
    return *expander_;
}

bool Backend::is_of(const Bundle& bundle) const {
    const auto same = [&](std::size_t i) {
        return bundle.manifest["files"].contains(encoder_files_[i]) &&
               bundle.hash_of(encoder_files_[i]) == encoders_[i];
    };
    return same(0) && same(1);
}

/// No hash covers the manifest: a size changed in it must not reach an array.
void Backend::check_sizes(const Bundle& bundle) const {
    const auto check = [&](const std::vector<Tensor>& ends, const char* name, std::int64_t size) {
        const std::int64_t columns = end_of(ends, name, bundle).shape.back();
        if (columns != size) {
            throw BundleError(bundle.folder + "/manifest.json does not fit its graphs: " + name + " has " +
                              std::to_string(columns) + " columns, the config says " + std::to_string(size) +
                              "; export the checkpoint again");
        }
    };
    check(image_encoder_->inputs(), "features", sizes_.region_dim);
    check(image_encoder_->outputs(), "image_states", sizes_.state_width(Kind::image));
    check(text_encoder_->outputs(), "text_states", sizes_.state_width(Kind::text));
    if (vocabulary_.size() > sizes_.vocab_size) {
        throw BundleError(bundle.path(VOCABULARY_FILE) + " has ids up to " + std::to_string(vocabulary_.size() - 1) +
                          ", the embedding only " + std::to_string(sizes_.vocab_size) +
                          " rows; export the checkpoint again");
    }
}

Dtype Backend::common_state_type(const Bundle& bundle, const std::string& precision) const {
    std::set<ONNXTensorElementDataType> types{end_of(image_encoder_->outputs(), "image_states", bundle).type,
                                              end_of(text_encoder_->outputs(), "text_states", bundle).type};
    if (scorer_) {
        types.insert(end_of(scorer_->inputs(), "image_states", bundle).type);
        types.insert(end_of(scorer_->inputs(), "text_states", bundle).type);
    }
    if (types.size() == 1 && (*types.begin() == FLOAT || *types.begin() == HALF)) {
        return *types.begin() == HALF ? Dtype::float16 : Dtype::float32;
    }
    std::string found;
    std::set<std::string> names;
    for (const ONNXTensorElementDataType type : types) {
        names.insert(type_name(type));
    }
    for (const std::string& name : names) {
        found += (found.empty() ? "" : " and ") + name;
    }
    throw BundleError(bundle.folder + ": its " + precision + " graphs do not fit each other, states are " + found +
                      "; export the checkpoint again");
}

} // namespace caan::detail
