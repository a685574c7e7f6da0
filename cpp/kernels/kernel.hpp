#pragma once

#include <cstddef>

/// The arithmetic of one instruction set, below `Scorer`: buffers are laid out for it, and only it reads them.
namespace caan::kernels {

struct Model {
  std::size_t embed_dim;      // D
  std::size_t attention_dim;  // d
  float attention_scale;      // λ
  const float* w_v;           // (d,), zeros behind up to a multiple of kColumnPadding
  const float* w_u;
  float largest_w_v;  // by absolute value; NaN if any element is
  float largest_w_u;
};

/// A common multiple of all instruction sets' column blocks.
constexpr std::size_t kColumnPadding = 64;

/// Alignment of buffers in bytes: a cache line, so that threads never share one.
constexpr std::size_t kAlignment = 64;

/// How a state's S numbers a row are stored. kInt8: a float32 scale per matrix of the state, then S integers, each to
/// be multiplied by its matrix's scale.
enum class StateType : unsigned char { kFloat32, kFloat16, kBFloat16, kInt8 };

/// Matrices side by side in a state: V, VK, VQ1, VQ2, VQ6; U, UQ3, UQ4, UQ5.
constexpr std::size_t kImageMatrices = 5, kCaptionMatrices = 4;

/// Bytes of a stored row.
constexpr std::size_t row_bytes(StateType type, std::size_t columns, std::size_t matrices) {
  if (type == StateType::kInt8) return matrices * sizeof(float) + columns;
  return columns * (type == StateType::kFloat32 ? 4 : 2);
}

/// An image's or a caption's state as it is stored: rows one after the other, at any address.
struct State {
  const void* rows;    // (length, 2D + 3d) of an image, (length, D + 3d) of a caption
  std::size_t length;  // 1 or more
  StateType type;
};

struct Packed {
  const std::byte* data;
  std::size_t length;
};

/// Memory that this thread reads next, after all is scored.
struct Upcoming {
  const void* at = nullptr;
  std::size_t bytes = 0;
};

/// Where an image's pairs with some captions have their pooling weights written, each normalized to a sum of 1; NaN
/// where the score is. Null: not wanted, and what only they need isn't computed.
struct Weights {
  float* av;  // (captions, av_stride): of the regions
  std::size_t av_stride;
  float* au;  // (captions, au_stride): of the words
  std::size_t au_stride;
};

struct Kernel {
  const char* instruction_set;
  std::size_t (*image_bytes)(const Model&, std::size_t regions);
  std::size_t (*caption_bytes)(const Model&, std::size_t words);
  std::size_t (*scratch_bytes)(const Model&, std::size_t regions, std::size_t words);
  void (*pack_image)(const Model&, const State&, std::byte* packed);
  void (*pack_caption)(const Model&, const State&, std::byte* packed);
  /// One image against some captions. `scratch` is large enough for the longest of them. `next` is prefetched
  /// meanwhile.
  void (*score)(const Model&, const Packed& image, const Packed* captions, std::size_t number, std::byte* scratch,
                float* scores, const Upcoming& next);
  /// The same up to the pooling weights. Of av and au alone, NaN of V or U alone is not seen.
  void (*attend)(const Model&, const Packed& image, const Packed* captions, std::size_t number, std::byte* scratch,
                 const Weights&, const Upcoming& next);
  /// pooled (columns,) = weights (length,) times the first columns of rows `width` wide, of `matrices` matrices.
  void (*pool)(const State&, std::size_t width, std::size_t matrices, std::size_t columns, const float* weights,
               float* pooled);
};

/// The best kernel for this processor, in float32 or bfloat16.
Kernel find_kernel(bool bfloat16);

/// Whether it has bfloat16 instructions; without them bfloat16 is widened, which is slower than float32.
bool has_native_bfloat16();

}  // namespace caan::kernels
