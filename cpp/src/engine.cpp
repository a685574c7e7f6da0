#include "engine.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include "built_plans.hpp"

namespace caan::detail {
namespace {

struct Target {
    const char* name;
    const char* provider;
};

// The first one is preferred: it is tuned for a specific GPU.
constexpr Target TARGETS[] = {{"tensorrt", "TensorrtExecutionProvider"},
                              {"tensorrt-rtx", "NvTensorRTRTXExecutionProvider"}};

/// One engine's entry in the manifest.
struct Record {
    const Bundle& bundle;
    const std::string& name;
    const OrderedJson& entry;
    const Target& target;

    std::string where() const { return "the engine " + name + " of " + bundle.folder; }
    std::string rebuild() const {
        const bool is_default = target.name == std::string("tensorrt");
        return "caan-build-engine " + bundle.folder + " --" + member(entry, "precision").get<std::string>() +
               (is_default ? "" : std::string(" --target ") + target.name);
    }
    BundleError invalid(const std::string& what) const {
        return BundleError(bundle.folder + "/manifest.json has no valid 'engines." + name + what +
                           "'; build the engine again");
    }
};

/// The largest size of an input's axis in a graph's first profile. Throws BundleError if the smallest is not 1, since
/// ONNX Runtime does not pad.
std::int64_t first_profile(const Record& record, const char* graph, const char* input, std::size_t axis) {
    const OrderedJson& profiles = member(member(record.entry, "profiles"), graph);
    if (!profiles.is_array() || profiles.empty()) {
        throw record.invalid(".profiles");
    }
    const OrderedJson& shapes = member(member(profiles[0], "shapes"), input);
    const auto size = [&](const char* end) {
        const OrderedJson& shape = member(shapes, end);
        if (!shape.is_array() || shape.size() <= axis || !is_integer(shape[axis]) || shape[axis] < 1) {
            throw record.invalid(".profiles");
        }
        return shape[axis].get<std::int64_t>();
    };
    if (size("min") != 1) {
        throw BundleError(record.where() + " can't be used by ONNX Runtime: the first profile of its " + graph +
                          " does not begin at 1; build it again without --profile: " + record.rebuild());
    }
    return size("max");
}

CallSizes sizes_of(const Record& record) {
    const auto most = [&](const char* graph, const char* input, std::size_t axis) {
        return first_profile(record, graph, input, axis);
    };
    return {std::min(most("image_encoder", "features", 1), most("scorer", "image_states", 1)),
            std::min(most("text_encoder", "tokens", 1), most("scorer", "text_states", 1)),
            most("image_encoder", "features", 0),
            most("text_encoder", "tokens", 0),
            most("scorer", "image_states", 0),
            most("scorer", "text_states", 0)};
}

Engine engine_of(const Record& record) {
    Engine engine;
    for (const char* graph : GRAPHS) {
        const std::string onnx = graph_file(graph, member(record.entry, "precision").get<std::string>());
        const OrderedJson& built_from = member(member(record.entry, "onnx"), graph);
        if (member(member(record.bundle.manifest["files"], onnx), "sha256") != built_from) {
            throw BundleError(record.where() + " is stale: it was built from another " + graph +
                              "; build it again: " + record.rebuild());
        }
        const std::string file = "engines/" + record.name + "/" + graph + ".epcontext.onnx";
        if (!record.bundle.manifest["files"].contains(file)) {
            // Built by an older caan, or without weights, which ONNX Runtime can't refit.
            throw BundleError(record.where() + " has no graph for ONNX Runtime, " + file +
                              "; build it again, with its weights: " + record.rebuild());
        }
        engine.graphs[graph] = {record.bundle.path(file), record.target.provider, record.where(), record.rebuild()};
    }
    engine.most = sizes_of(record);
    if (!has_provider(record.target.provider)) {
        throw missing_provider(engine.graphs["scorer"], "this onnxruntime was built without it");
    }
    return engine;
}

/// Throws BundleError for an engine not built here: a plan is a program, and some contain host code too.
void check_built_here(const Record& record) {
    const auto is_from_here = [&](const std::string& file) {
        return record.bundle.manifest["files"].contains(file) && was_built_here(record.bundle.hash_of(file));
    };
    for (const char* graph : GRAPHS) {
        const std::string stem = "engines/" + record.name + "/" + graph;
        if (!is_from_here(stem + ".plan") || !is_from_here(stem + ".epcontext.onnx")) {
            throw BundleError(record.where() +
                              " was not built here, and an engine is a program; if you trust who"
                              " built it, set trust_engines, else build it again: " +
                              record.rebuild());
        }
    }
}

} // namespace

Engine choose_engine(const Bundle& bundle, const std::string& precision, bool trust_engines) {
    const OrderedJson& engines = member(bundle.manifest, "engines");
    if (!engines.is_object() && !engines.is_null()) {
        throw BundleError(bundle.folder + "/manifest.json has no valid 'engines'; build the engines again");
    }
    std::exception_ptr refusal;
    for (const Target& target : TARGETS) {
        for (const auto& item : engines.items()) {
            if (member(item.value(), "precision") != precision || member(item.value(), "target") != target.name) {
                continue;
            }
            try {
                const Record record{bundle, item.key(), item.value(), target};
                Engine engine = engine_of(record);
                if (!trust_engines) {
                    check_built_here(record);
                }
                return engine;
            } catch (const Error&) {
                refusal = refusal ? refusal : std::current_exception();
            }
        }
    }
    if (refusal) {
        std::rethrow_exception(refusal);
    }
    const bool needs_data = precision == "int8" && !bundle.manifest["precisions"].contains(precision);
    throw BundleError(bundle.folder + " has no TensorRT engine of precision '" + precision +
                      "'; build one: caan-build-engine " + bundle.folder + " --" + precision +
                      (needs_data ? " --calibration-data DIR" : ""));
}

} // namespace caan::detail
