/// A bundle's prebuilt TensorRT engines, as ONNX Runtime loads them: graphs of one EPContext node that names the plan.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "bundle.hpp"
#include "session.hpp"

namespace caan::detail {

/// The most that one call of a graph takes.
struct CallSizes {
    std::int64_t regions = INT64_MAX, words = INT64_MAX;                   // of an item
    std::int64_t encoded_images = INT64_MAX, encoded_captions = INT64_MAX; // by an encoder
    std::int64_t images = INT64_MAX, captions = INT64_MAX;                 // by the scorer
};

struct Engine {
    std::map<std::string, EngineGraph> graphs; // by the graph's name
    CallSizes most;                            // of the first profile: ONNX Runtime uses no other
};

/// The bundle's first engine of this precision that this ONNX Runtime has a provider for; TensorRT before TensorRT for
/// RTX. Nothing is loaded yet. trust_engines: also one that was not built here.
/// Throws, if there is none, for the one that would have been taken: BundleError for an engine that is missing, stale,
/// or of no use to ONNX Runtime, MissingError for a provider that is not there.
Engine choose_engine(const Bundle& bundle, const std::string& precision, bool trust_engines);

} // namespace caan::detail
