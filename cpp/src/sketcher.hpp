/// A bundle's sketch: calibration items and a projection that make queries comparable with galleries' sketches.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <caan/caan.hpp>
#include <sketches.hpp>

#include "backend.hpp"
#include "buffers.hpp"
#include "gallery.hpp"

namespace caan::detail {

/// May be used from several threads.
class Sketcher {
public:
    /// Reads and verifies the files and encodes the calibration items. Throws BundleError for a bundle without a
    /// sketch, and for one that is damaged or was replaced since the backend was opened.
    Sketcher(const Backend& backend, Workspaces& spaces);

    /// Which sketch it is: galleries hold the same.
    const std::string& model() const noexcept { return model_; }
    std::size_t columns() const noexcept { return columns_; }

    /// The numbers (queries, columns) of encoded queries, for galleries of the other kind, into `numbers`. False if a
    /// query has NaN.
    bool numbers(const Gallery::Content& queries, std::vector<std::int16_t>& numbers) const;

    kernels::Scanner& scanner() const noexcept { return scanner_; }

private:
    void read(const Bundle& bundle);
    void encode_images(const Bundle& bundle, std::size_t count);
    void encode_captions(const Bundle& bundle, std::size_t count);
    /// The calibration items of a kind.
    std::vector<kernels::State> others(Kind kind) const;
    bool add_numbers(const float* pooled, std::size_t queries, Kind kind, std::vector<std::int16_t>& numbers) const;

    const Backend& backend_;
    Workspaces& spaces_;
    std::string model_;
    std::size_t columns_ = 0;
    std::vector<float> projection_;              // (2, D, columns): for images, captions
    std::vector<float> steps_;                   // (2, columns)
    std::unique_ptr<Gallery> images_, captions_; // calibration items
    std::unique_ptr<kernels::Scorer> scorer_;    // in float32, whatever the backend's precision
    mutable kernels::Scanner scanner_;
};

} // namespace caan::detail
