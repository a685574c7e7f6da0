#pragma once

#include <cstddef>

#include "kernel.hpp"
#include "per_process.hpp"

/// CAAN's scorer for CPUs: states in, scores out; intermediates never leave the processor's caches.
namespace caan::kernels {

/// Limit for dimensions and item lengths: their products, in bytes, stay far below 64 bits.
inline constexpr std::size_t kLargestSize = std::size_t{1} << 20;
inline constexpr std::size_t kMostThreads = 4096;

enum class Precision { kFloat32, kBFloat16 };

/// The scorer's parameters (equations: docs/model.md).
struct Parameters {
  std::size_t embed_dim;      // D
  std::size_t attention_dim;  // d
  float attention_scale;      // λ
  const float* w_v;           // (d,), copied
  const float* w_u;           // (d,), copied
};

/// Throws std::invalid_argument for none or more than kMostThreads.
void check_threads(std::size_t threads);

/// Scores all pairs of images and captions. Thread-safe: calls are serialized, each on all threads. A forked process
/// inherits none of the threads and starts its own with its first call.
class Scorer {
 public:
  /// Throws std::invalid_argument for a dimension of 0 or above kLargestSize, no threads or more than kMostThreads, and
  /// an attention_scale that is not finite; std::bad_alloc, and std::system_error where threads can't be started.
  Scorer(const Parameters& parameters, Precision precision, std::size_t threads);
  ~Scorer();
  Scorer(Scorer&& other) noexcept;
  Scorer& operator=(Scorer&& other) noexcept;

  /// scores (images, captions), row-major. A pair's score does not depend on the others. From the second call with
  /// items no longer than the first's, nothing is allocated.
  ///
  /// A score is NaN if its states hold NaN.
  ///
  /// Throws std::invalid_argument for an item of length 0 or above kLargestSize, std::bad_alloc; in a forked process,
  /// std::system_error where threads can't be started.
  void score(const State* images, std::size_t number_of_images, const State* captions, std::size_t number_of_captions,
             float* scores);

  /// The pooling weights of every pair (equations: docs/model.md), normalized to a sum of 1, as `score` computes them:
  /// av (images, captions, longest image) of the regions, au (images, captions, longest caption) of the words,
  /// row-major, 0 beyond an item's own length. NaN where the score is. Throws as `score` does.
  void attend(const State* images, std::size_t number_of_images, const State* captions, std::size_t number_of_captions,
              float* av, float* au);

  /// pooled (images, D): each image's V weighted with the mean of its av over the captions, in float32. An image's
  /// result depends neither on the other images nor on the threads. The price of a pair is below that of its score.
  ///
  /// Throws as `score` does, and std::invalid_argument if there are no captions.
  void pool_images(const State* images, std::size_t number_of_images, const State* captions,
                   std::size_t number_of_captions, float* pooled);

  /// pooled (captions, D): each caption's U weighted with the mean of its au over the images; otherwise as above.
  void pool_captions(const State* captions, std::size_t number_of_captions, const State* images,
                     std::size_t number_of_images, float* pooled);

  /// What runs: "AVX3_ZEN4", "AVX2", ...
  const char* instruction_set() const;

 private:
  struct Work;

  PerProcess<Work> work_;
};

}  // namespace caan::kernels
