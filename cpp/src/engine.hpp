/// A bundle's prebuilt TensorRT engines, as ONNX Runtime loads them: graphs of one EPContext node that names the plan.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "bundle.hpp"
#include "session.hpp"

namespace caan::detail {

/// Largest inputs of one call of a graph.
struct CallSizes {
    std::int64_t regions = INT64_MAX, words = INT64_MAX;                   // of an item
    std::int64_t encoded_images = INT64_MAX, encoded_captions = INT64_MAX; // by an encoder
    std::int64_t images = INT64_MAX, captions = INT64_MAX;                 // by the scorer
};

struct Engine {
    std::map<std::string, EngineGraph> graphs; // by the graph's name
    CallSizes most;                            // of the first profile: ONNX Runtime uses only that one
};

/// The bundle's first engine of this precision with a provider in this ONNX Runtime; TensorRT before TensorRT for RTX.
/// Nothing is loaded yet. trust_engines: also engines not built here.
/// If there is none, throws for the preferred engine: BundleError if it is missing, stale, or unusable in ONNX Runtime,
/// MissingError if its provider is missing.
Engine choose_engine(const Bundle& bundle, const std::string& precision, bool trust_engines);

} // namespace caan::detail
