#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "kernel.hpp"

namespace caan::kernels {

/// Bytes aligned to a cache line, initially zero; they grow, and never shrink.
class Buffer {
 public:
  std::byte* at_least(std::size_t bytes) {
    if (bytes <= bytes_) return data_.get();
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded)));
    bytes_ = 0;
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, rounded);
    bytes_ = rounded;
    return data_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t bytes_ = 0;
};

}  // namespace caan::kernels
