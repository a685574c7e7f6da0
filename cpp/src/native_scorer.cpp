#include "native_scorer.hpp"

#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

#include "graph_constants.hpp"
#include "npy.hpp"
#include "states.hpp"

namespace caan::detail {
namespace {

constexpr const char* WEIGHTS_FILE = "scorer_weights.npy";
constexpr const char* BF16 = "bf16";

BundleError unreadable(const std::string& path, const std::string& why) {
    return BundleError(path + " can't be read as an array (" + why + "); export the checkpoint again");
}

/// The rows w_v and w_u, (2, d).
std::vector<float> parse_weights(std::string_view content, std::size_t d, const std::string& path) {
    NpyHeader header;
    try {
        header = parse_npy_header(content);
    } catch (const NpyError& error) {
        throw unreadable(path, error.what());
    }
    const std::vector<std::size_t> expected{2, d};
    if (header.descr != "<f4" || header.shape != expected) {
        throw BundleError(path + " does not hold float32 " + shape_str(expected) + "; export the checkpoint again");
    }
    std::vector<float> stored(2 * d);
    if (content.size() - header.data_offset < stored.size() * sizeof(float)) {
        throw unreadable(path, "it is cut off");
    }
    std::memcpy(stored.data(), content.data() + header.data_offset, stored.size() * sizeof(float));
    if (!all_finite(stored.data(), Dtype::float32, stored.size())) {
        throw BundleError(path + " holds NaN or infinity; export the checkpoint again");
    }
    if (!header.fortran_order) {
        return stored;
    }
    std::vector<float> weights(stored.size());
    for (std::size_t i = 0; i < stored.size(); ++i) {
        weights[i % 2 * d + i / 2] = stored[i];
    }
    return weights;
}

std::vector<float> read_weights(const Bundle& bundle) {
    if (!bundle.manifest["files"].contains(WEIGHTS_FILE)) {
        throw BundleError(bundle.folder + " was exported before bundles held " + WEIGHTS_FILE +
                          "; export the checkpoint again: caan-export model.pt -o " + bundle.folder + " --overwrite");
    }
    const std::string content = bundle.content(WEIGHTS_FILE), path = bundle.path(WEIGHTS_FILE);
    return parse_weights(content, static_cast<std::size_t>(bundle.sizes.attention_dim), path);
}

/// Whether λ is a constant of the FP32 scorer's graph. True if that can't be determined.
bool is_of_graph(float scale, const Bundle& bundle) {
    const std::string file = graph_file("scorer", "fp32");
    if (!bundle.manifest["files"].contains(file)) {
        return true;
    }
    std::optional<std::set<float>> others = float_scalars(bundle.content(file));
    if (!others) {
        return true;
    }
    // The mask, the squared epsilon of the norms, the exponent of the squares.
    for (const float other : {-1e4F, 1e-12F, 2.0F}) {
        others->erase(other);
    }
    // A product with 1 is omitted from the graph, and one with 2 shares the constant of the squares.
    return others->empty() ? scale == 1 || scale == 2 : others->count(scale) > 0;
}

/// λ. In older bundles, whose manifest has no checksum, it is compared with the scorer's graph.
float attention_scale(const Bundle& bundle) {
    const OrderedJson& scale = member(bundle.manifest["config"], "attention_scale");
    if (!scale.is_number() || !std::isfinite(scale.get<float>())) {
        throw BundleError(bundle.path("manifest.json") +
                          " has no valid 'config.attention_scale'; export the checkpoint again");
    }
    if (!is_sealed(bundle.manifest) && !is_of_graph(scale.get<float>(), bundle)) {
        throw BundleError(bundle.path("manifest.json") +
                          " does not fit its graphs: the scorer does not multiply by its config.attention_scale, " +
                          python_str(scale) + "; copy the bundle again, or export the checkpoint again");
    }
    return scale.get<float>();
}

bool is_native_precision(const std::string& precision) {
    return precision == "fp32" || precision == BF16 || precision == "fp16";
}

} // namespace

std::string graph_precision(const std::string& precision) { return precision == BF16 ? "fp32" : precision; }

void check_native(const Options& options) {
    if (!is_native_precision(options.precision)) {
        throw InputError("the backend 'native' scores in fp32, bf16, fp16, not in " + options.precision +
                         "; use backend 'onnxruntime'");
    }
    if (options.device == "cuda") {
        throw InputError("the backend 'native' runs on device 'cpu'; on 'cuda' use 'triton' or 'onnxruntime'");
    }
    if (options.precision == BF16 && !kernels::has_native_bfloat16()) {
        throw MissingError("this processor has no instructions for bfloat16 (AVX512-BF16, AMX); use precision fp32");
    }
}

bool has_native(const Bundle& bundle, const std::string& precision) {
    return is_native_precision(precision) && bundle.manifest["files"].contains(WEIGHTS_FILE);
}

std::unique_ptr<kernels::Scorer> native_scorer(const Bundle& bundle, const std::string& precision, int threads) {
    const std::vector<float> weights = read_weights(bundle);
    const auto d = static_cast<std::size_t>(bundle.sizes.attention_dim);
    const kernels::Parameters parameters{static_cast<std::size_t>(bundle.sizes.embed_dim), d, attention_scale(bundle),
                                         weights.data(), weights.data() + d};
    const auto factors = precision == BF16 ? kernels::Precision::kBFloat16 : kernels::Precision::kFloat32;
    return std::make_unique<kernels::Scorer>(parameters, factors, static_cast<std::size_t>(threads));
}

} // namespace caan::detail
