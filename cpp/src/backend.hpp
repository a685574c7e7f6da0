/// The encoders of one model in one precision as ONNX Runtime sessions, and its scorer: a session, or our own kernel.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include <caan/caan.hpp>

#include "bundle.hpp"
#include "engine.hpp"
#include "native_scorer.hpp"
#include "session.hpp"
#include "vocabulary.hpp"

namespace caan::detail {

/// States of some items, padded to the longest: (items, longest, state width) in the backend's state type.
struct Padded {
    const void* states;
    const std::int64_t* lengths; // (items)
    std::int64_t items, longest;
};

/// May be used from several threads: sessions run concurrently, kernel calls are serialized.
class Backend {
public:
    /// options: already checked. Throws BundleError for an unusable bundle, MissingError for a missing device.
    Backend(const Bundle& bundle, const Options& options);

    /// features (n, R, F) → states (n, R, S).
    void encode_images(const float* features, std::int64_t images, std::int64_t regions, void* states) const;
    /// tokens (m, T), lengths (m) → states (m, T, S).
    void encode_captions(const std::int64_t* tokens, const std::int64_t* lengths, std::int64_t captions,
                         std::int64_t words, void* states) const;
    /// The kernel, which scores states in place; null if a graph scores.
    kernels::Scorer* native() const noexcept { return native_.get(); }
    /// States of n images and m captions → scores (n, m), by the graph. `alone`: on one thread, with calls in parallel.
    void score(const Padded& images, const Padded& captions, float* scores, bool alone) const;
    /// Regions (n, R, D), the first columns of image states → the whole states (n, R, S), in float32.
    /// Throws BundleError for a bundle without that graph, or replaced since it was opened.
    void expand_regions(const float* regions, std::int64_t images, std::int64_t longest, float* states) const;

    /// Largest inputs of one call of each graph.
    const CallSizes& most() const noexcept { return most_; }
    const Vocabulary& vocabulary() const noexcept { return vocabulary_; }
    const Sizes& sizes() const noexcept { return sizes_; }
    /// "native", "onnxruntime" or "tensorrt".
    const char* name() const noexcept {
        return native_ != nullptr ? "native" : device_.tensorrt ? "tensorrt" : "onnxruntime";
    }
    const std::string& device() const noexcept { return device_.name; }
    /// Hash of the encoder for this kind.
    const std::string& encoder(Kind kind) const noexcept { return encoders_[kind == Kind::image ? 0 : 1]; }
    /// float16 or float32.
    Dtype state_dtype() const noexcept { return state_dtype_; }
    std::size_t state_row_bytes(Kind kind) const noexcept {
        return static_cast<std::size_t>(sizes_.state_width(kind)) * (state_dtype_ == Dtype::float16 ? 2 : 4);
    }
    int threads() const noexcept { return threads_; }
    const std::string& folder() const noexcept { return folder_; }
    /// Whether a bundle holds the encoders that were opened.
    bool is_of(const Bundle& bundle) const;
    /// Whether `score` may be called with `alone`.
    bool has_single_scorer() const noexcept { return single_scorer_.has_value(); }

private:
    bool takes_native(const Bundle& bundle, const Options& options) const;
    void open_sessions(const Bundle& bundle, const std::string& precision);
    void open_engine(const Bundle& bundle, const std::string& precision, bool trust_engines);
    void check_sizes(const Bundle& bundle) const;
    Dtype common_state_type(const Bundle& bundle, const std::string& precision) const;
    const Session& expander() const;

    Sizes sizes_;
    CallSizes most_;
    Vocabulary vocabulary_;
    std::array<std::string, 2> encoder_files_, encoders_; // graphs of images and texts, and their hashes
    Device device_;
    int threads_;
    Dtype state_dtype_ = Dtype::float32;
    std::unique_ptr<kernels::Scorer> native_;
    std::optional<Session> image_encoder_, text_encoder_, scorer_, single_scorer_; // no scorer with the kernel

    // The expander is opened on first use.
    std::string folder_, expander_hash_; // hash: empty if the bundle has none
    mutable std::mutex opening_;
    mutable std::unique_ptr<Session> expander_;
};

} // namespace caan::detail
