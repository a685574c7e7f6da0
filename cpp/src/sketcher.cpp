#include "sketcher.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "encoding.hpp"
#include "files.hpp"
#include "half.hpp"
#include "native_scorer.hpp"
#include "npy.hpp"
#include "states.hpp"

namespace caan::detail {
namespace {

// In the order of their names, as the identity lists them.
constexpr const char* PROJECTION = "sketch/projection.npy";
constexpr const char* REGION_LENGTHS = "sketch/region_lengths.npy";
constexpr const char* REGIONS = "sketch/regions.npy";
constexpr const char* STEPS = "sketch/steps.npy";
constexpr const char* TOKEN_LENGTHS = "sketch/token_lengths.npy";
constexpr const char* TOKENS = "sketch/tokens.npy";
constexpr std::array<const char*, 6> FILES{PROJECTION, REGION_LENGTHS, REGIONS, STEPS, TOKEN_LENGTHS, TOKENS};

// Queries pooled at a time.
constexpr std::size_t QUERIES = 32;

constexpr float LARGEST_NUMBER = 32767;
constexpr std::int64_t LARGEST_CALIBRATION = 1 << 16;

std::string again(const Bundle& bundle) { return "; make it again: caan sketch " + bundle.folder + " --data DIR"; }

BundleError misfit(const Bundle& bundle) {
    return BundleError(bundle.folder + "/sketch does not fit its model" + again(bundle));
}

/// A verified array of this type, in C order; `shape`: with 0 for any length.
template <typename T>
std::vector<T> read_array(const Bundle& bundle, const char* file, const char* descr,
                          const std::vector<std::size_t>& shape) {
    const std::string content = bundle.content(file);
    NpyHeader header;
    try {
        header = parse_npy_header(content);
    } catch (const NpyError&) {
        throw BundleError(bundle.path(file) + " is not an array" + again(bundle));
    }
    if (header.descr != descr) {
        throw BundleError(bundle.path(file) + " is not an array of " + dtype_name(descr) + again(bundle));
    }
    const auto fits = [](std::size_t expected, std::size_t found) { return expected == 0 || expected == found; };
    if (header.fortran_order || header.shape.size() != shape.size() ||
        !std::equal(shape.begin(), shape.end(), header.shape.begin(), fits)) {
        throw misfit(bundle);
    }
    const std::size_t bytes = content.size() - header.data_offset;
    std::size_t left = bytes / sizeof(T), values = 1;
    for (const std::size_t length : header.shape) {
        if (length != 0 && values > left / length) {
            throw misfit(bundle);
        }
        values *= length;
    }
    std::vector<T> result(values);
    if (values > 0) {
        std::memcpy(result.data(), content.data() + header.data_offset, values * sizeof(T));
    }
    return result;
}

/// The first `count` lengths of items that have these rows together.
std::vector<std::int64_t> first_lengths(const Bundle& bundle, const std::vector<std::int32_t>& lengths,
                                        std::size_t count, std::size_t rows, std::int64_t most) {
    const auto fits = [&](std::int32_t length) { return length >= 1 && length <= most; };
    if (lengths.size() < count || !std::all_of(lengths.begin(), lengths.end(), fits) ||
        std::accumulate(lengths.begin(), lengths.end(), std::size_t{0}) != rows) {
        throw misfit(bundle);
    }
    return {lengths.begin(), lengths.begin() + static_cast<std::ptrdiff_t>(count)};
}

} // namespace

Sketcher::Sketcher(const Backend& backend, Workspaces& spaces)
    : backend_(backend), spaces_(spaces), scanner_(static_cast<std::size_t>(backend.threads())) {
    read_consistently(backend.folder() + "/manifest.json", [&] {
        read(Bundle(backend.folder()));
        return true;
    });
}

void Sketcher::read(const Bundle& bundle) {
    if (!backend_.is_of(bundle)) {
        throw BundleError(bundle.folder + " is not the bundle that was opened, it was replaced; open it again");
    }
    const OrderedJson& entry = member(bundle.manifest, "sketch");
    if (!entry.is_object()) {
        throw BundleError(bundle.folder + " has no sketch; make one: caan sketch " + bundle.folder + " --data DIR");
    }
    const OrderedJson &columns = member(entry, "columns"), &calibration = member(entry, "calibration");
    if (!is_integer(columns) || columns < kernels::kSketchStep || columns > kernels::kLargestSketch ||
        columns.get<std::size_t>() % kernels::kSketchStep != 0 || !is_integer(calibration) || calibration < 1 ||
        calibration > LARGEST_CALIBRATION) {
        throw BundleError(bundle.path("manifest.json") + " has no valid 'sketch'" + again(bundle));
    }
    std::string listing;
    for (const char* file : FILES) {
        if (!bundle.manifest["files"].contains(file)) {
            throw BundleError(bundle.path("manifest.json") + " does not list " + file + again(bundle));
        }
        listing += std::string(file) + " " + bundle.hash_of(file) + "\n";
    }
    model_ = sha256_of(listing.data(), listing.size());
    columns_ = columns.get<std::size_t>();
    const auto dim = static_cast<std::size_t>(backend_.sizes().embed_dim);
    projection_ = read_array<float>(bundle, PROJECTION, "<f4", {2, dim, columns_});
    steps_ = read_array<float>(bundle, STEPS, "<f4", {2, columns_});
    const auto is_step = [](float step) { return step > 0; };
    if (!all_finite(projection_.data(), Dtype::float32, projection_.size()) ||
        !all_finite(steps_.data(), Dtype::float32, steps_.size()) ||
        !std::all_of(steps_.begin(), steps_.end(), is_step)) {
        throw misfit(bundle);
    }
    encode_images(bundle, calibration.get<std::size_t>());
    encode_captions(bundle, calibration.get<std::size_t>());
    scorer_ = native_scorer(bundle, "fp32", backend_.threads());
}

void Sketcher::encode_images(const Bundle& bundle, std::size_t count) {
    const auto dim = static_cast<std::size_t>(backend_.sizes().embed_dim);
    const auto stored = read_array<std::uint16_t>(bundle, REGIONS, "<f2", {0, dim});
    const auto all_lengths = read_array<std::int32_t>(bundle, REGION_LENGTHS, "<i4", {0});
    const auto lengths =
        first_lengths(bundle, all_lengths, count, stored.size() / dim, backend_.sizes().longest(Kind::image));
    if (!all_finite(stored.data(), Dtype::float16, stored.size())) {
        throw misfit(bundle);
    }
    const std::int64_t rows = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
    std::vector<float> regions(static_cast<std::size_t>(rows) * dim);
    std::transform(stored.begin(), stored.begin() + static_cast<std::ptrdiff_t>(regions.size()), regions.begin(),
                   half_to_float);
    auto images = new_gallery(backend_, Kind::image, lengths);
    std::vector<float> states(static_cast<std::size_t>(rows) * images->columns);
    // A region's columns depend on it alone: as if all were of one image.
    backend_.expand_regions(regions.data(), 1, rows, states.data());
    images->type = kernels::StateType::kFloat32;
    images->memory = std::unique_ptr<std::byte[]>(new std::byte[states.size() * sizeof(float)]);
    std::memcpy(images->memory.get(), states.data(), states.size() * sizeof(float));
    images->states = images->memory.get();
    images_ = std::make_unique<Gallery>(std::move(images));
}

void Sketcher::encode_captions(const Bundle& bundle, std::size_t count) {
    const auto ids = read_array<std::int32_t>(bundle, TOKENS, "<i4", {0});
    const auto all_lengths = read_array<std::int32_t>(bundle, TOKEN_LENGTHS, "<i4", {0});
    Tokens tokens;
    tokens.lengths = first_lengths(bundle, all_lengths, count, ids.size(), backend_.sizes().longest(Kind::text));
    const auto is_known = [&](std::int32_t id) { return id >= 0 && id < backend_.sizes().vocab_size; };
    if (!std::all_of(ids.begin(), ids.end(), is_known)) {
        throw misfit(bundle);
    }
    const std::int32_t* from = ids.data();
    for (const std::int64_t length : tokens.lengths) {
        tokens.ids.emplace_back(from, from + length);
        from += length;
    }
    const auto space = spaces_.borrow();
    captions_ = std::make_unique<Gallery>(detail::encode_captions(backend_, tokens, {}, *space));
}

std::vector<kernels::State> Sketcher::others(Kind kind) const {
    const Gallery::Content& items = (kind == Kind::image ? images_ : captions_)->content();
    std::vector<kernels::State> states;
    for (const std::int64_t item : items.live) {
        states.push_back({items.row(items.offsets[static_cast<std::size_t>(item)]),
                          static_cast<std::size_t>(items.length(item)), items.type});
    }
    return states;
}

bool Sketcher::numbers(const Gallery::Content& queries, std::vector<std::int16_t>& numbers) const {
    const Kind kind = queries.kind;
    const std::vector<kernels::State> others = this->others(kind == Kind::image ? Kind::text : Kind::image);
    const std::size_t row_bytes = backend_.state_row_bytes(kind);
    const auto dim = static_cast<std::size_t>(backend_.sizes().embed_dim);
    numbers.clear();
    numbers.reserve(queries.size() * columns_);
    const auto space = spaces_.borrow();
    std::vector<float> pooled(QUERIES * dim);
    for (std::size_t start = 0; start < queries.size(); start += QUERIES) {
        const std::size_t count = std::min(QUERIES, queries.size() - start);
        std::vector<std::int64_t> some(count);
        for (std::size_t i = 0; i < count; ++i) {
            some[i] = static_cast<std::int64_t>(start + i);
        }
        const Padded padded = gather_states(backend_, queries, some.data(), count, *space);
        std::vector<kernels::State> states;
        for (std::size_t i = 0; i < count; ++i) {
            states.push_back({static_cast<const std::byte*>(padded.states) +
                                  i * static_cast<std::size_t>(padded.longest) * row_bytes,
                              static_cast<std::size_t>(padded.lengths[i]), stored_type(backend_.state_dtype())});
        }
        const auto pool = kind == Kind::image ? &kernels::Scorer::pool_images : &kernels::Scorer::pool_captions;
        (scorer_.get()->*pool)(states.data(), count, others.data(), others.size(), pooled.data());
        if (!add_numbers(pooled.data(), count, kind, numbers)) {
            return false;
        }
    }
    queries.confirm();
    return true;
}

/// Projected, in steps of the galleries' sketches, each query's as large as 16 bits allow.
bool Sketcher::add_numbers(const float* pooled, std::size_t queries, Kind kind,
                           std::vector<std::int16_t>& numbers) const {
    const auto dim = static_cast<std::size_t>(backend_.sizes().embed_dim);
    const std::size_t own = kind == Kind::image ? 0 : 1;
    std::vector<float> projected(queries * columns_);
    kernels::project(pooled, projection_.data() + own * dim * columns_, queries, dim, columns_, projected.data());
    const float* steps = steps_.data() + (1 - own) * columns_;
    for (std::size_t i = 0; i < queries; ++i) {
        float* row = projected.data() + i * columns_;
        float largest = 0;
        for (std::size_t j = 0; j < columns_; ++j) {
            row[j] *= steps[j];
            if (!std::isfinite(row[j])) {
                return false;
            }
            largest = std::max(largest, std::abs(row[j]));
        }
        for (std::size_t j = 0; j < columns_; ++j) {
            const double number = largest == 0 ? 0 : double{row[j]} * LARGEST_NUMBER / double{largest};
            numbers.push_back(static_cast<std::int16_t>(std::nearbyint(number)));
        }
    }
    return true;
}

} // namespace caan::detail
