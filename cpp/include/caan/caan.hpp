/// caan in C++: open a bundle written by `caan-export`, encode, search and score. Answers, defaults, checks and
/// messages match those of the Python package's `caan.runtime`.
///
///     caan::Retriever retriever = caan::Retriever::open("model.caan");
///     caan::FeatureFile file = caan::FeatureFile::open("features.npy");          // (N, R, F)
///     caan::Gallery gallery = retriever.encode_images(file.features());
///     for (const caan::Hit& hit : retriever.search("two dogs play in the snow", gallery, 10)) ...
///
/// Text is UTF-8. Sizes count elements, not bytes. Failures throw a subclass of caan::Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include <caan/export.h>

namespace caan {

/// Base of all errors raised by caan. Thrown itself for failures due neither to the input nor to the environment.
class CAAN_API Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
    ~Error() override;
    /// The exit code for a command: 1 here, 2 for InputError, 4 for MissingError.
    virtual int exit_code() const noexcept;
};

/// Wrong usage or input.
class CAAN_API InputError : public Error {
public:
    using Error::Error;
    ~InputError() override;
    int exit_code() const noexcept override;
};

/// Features, captions or a vocabulary that can't be used.
class CAAN_API DataError : public InputError {
public:
    using InputError::InputError;
    ~DataError() override;
};

/// A bundle or gallery that is damaged, incomplete, newer than this version, or unsafe to open.
class CAAN_API BundleError : public InputError {
public:
    using InputError::InputError;
    ~BundleError() override;
};

/// A missing library, device or execution provider.
class CAAN_API MissingError : public Error {
public:
    using Error::Error;
    ~MissingError() override;
    int exit_code() const noexcept override;
};

/// A caption: text for the bundle's tokenizer, or a list of tokens, used unchanged.
class Caption {
public:
    Caption(std::string text) : content_(std::move(text)) {}                  // NOLINT(google-explicit-constructor)
    Caption(const char* text) : content_(std::string(text)) {}                // NOLINT(google-explicit-constructor)
    Caption(std::vector<std::string> tokens) : content_(std::move(tokens)) {} // NOLINT(google-explicit-constructor)
    /// The text; null for tokens.
    const std::string* text() const noexcept { return std::get_if<std::string>(&content_); }
    /// The tokens; null for text.
    const std::vector<std::string>* tokens() const noexcept { return std::get_if<std::vector<std::string>>(&content_); }

private:
    std::variant<std::string, std::vector<std::string>> content_;
};

enum class Dtype { float16, float32, float64 };

/// A view of region features in C order: (images, regions, columns), or (regions, columns) of one image. The caller
/// owns the memory; a call that takes the view reads it during the call only.
struct Features {
    const void* data = nullptr;
    std::vector<std::size_t> shape;
    Dtype dtype = Dtype::float32;

    Features() = default;
    Features(const void* values, std::vector<std::size_t> sizes, Dtype type)
        : data(values), shape(std::move(sizes)), dtype(type) {}
    Features(const float* values, std::size_t images, std::size_t regions, std::size_t columns)
        : data(values), shape{images, regions, columns} {}
    /// Image number `index` of (images, regions, columns), as (regions, columns). Throws std::out_of_range.
    CAAN_API Features image(std::size_t index) const;
};

/// Region features (N, R, F) in an .npy file, memory-mapped: floats, little-endian, C order. Copies share the mapping.
class CAAN_API FeatureFile {
public:
    /// Throws DataError, naming the file, if it is missing, not an .npy file, truncated, empty, not of three axes, or
    /// of another type or order.
    static FeatureFile open(const std::string& path);
    /// Valid as long as this object or a copy of it lives.
    const Features& features() const noexcept;

    struct CAAN_HIDDEN Content; // the library's own

private:
    std::shared_ptr<const Content> content_;
};

enum class Kind { image, text };

/// Where an opened gallery's states are: in the mapped file, read on every use; or in memory, independent of later
/// changes to the file.
enum class Storage { mapped, memory };

/// Encoded images or captions, ready to be scored: in memory, or memory-mapped from a folder written by `caan index`.
/// Immutable, except that it remembers which hashes were verified; copies are cheap and share everything. May be used
/// from several threads, and with several Retrievers of the same bundle.
class CAAN_API Gallery {
public:
    /// Open a gallery. Small files are compared with their hashes now, blocks of mapped states on first use, and again
    /// if the file was modified in place. Truncating a mapped file may end the process (SIGBUS): use Storage::memory
    /// on storage that others write to.
    /// Throws BundleError, naming the file, for one that is missing, damaged, swapped or newer.
    static Gallery open(const std::string& folder, Storage storage = Storage::mapped);

    Kind kind() const noexcept;
    /// Items, including deleted ones: an index is below this.
    std::size_t size() const noexcept;
    /// Items that are not deleted.
    std::size_t live() const noexcept;
    bool is_deleted(std::size_t index) const;
    /// Regions or words of an item.
    std::size_t length(std::size_t index) const;
    /// One name per item, or null.
    const std::vector<std::string>* ids() const noexcept;
    /// SHA-256 of the encoder's graph.
    const std::string& encoder() const noexcept;
    /// The gallery's bundle, relative to the gallery's folder; empty if unknown.
    const std::string& bundle() const noexcept;

    struct CAAN_HIDDEN Content; // the library's own
    explicit Gallery(std::shared_ptr<const Content> content);
    const Content& content() const noexcept { return *content_; }

private:
    std::shared_ptr<const Content> content_;
};

/// One search result: the item's position in the gallery and its score.
struct Hit {
    std::int64_t index;
    float score;
};

/// How a large gallery is searched: by its sketches, which `caan index` or `caan sketch` wrote, only the most promising
/// items are scored. With neither recall nor candidates the search is exact.
struct Search {
    /// Hits of a query; 0: 10, or all if there are fewer items.
    std::size_t k = 0;
    /// The share of the exact k best that is found on average, above 0 to 1, as measured on the gallery; 1 is exact.
    std::optional<double> recall;
    /// Or: how many items are scored for each query, k or more.
    std::optional<std::size_t> candidates;
};

/// A share that was measured, and an interval of 95 %.
struct Measured {
    double value, low, high;
};

/// What a search by sketches found. All scores are the exact ones.
struct Found {
    std::vector<Hit> hits;
    /// Items that were scored; none if all were.
    std::optional<std::size_t> candidates;
    /// The recall of so many candidates on this gallery, if measured.
    std::optional<Measured> recall;
};

/// Scores (rows = images, columns = captions) in C order; -infinity for deleted items.
struct Matrix {
    std::size_t rows = 0;
    std::size_t columns = 0;
    std::vector<float> values;
    float operator()(std::size_t image, std::size_t caption) const { return values[image * columns + caption]; }
};

struct Options {
    /// "native": the scorer compiled for this processor, several times as fast as a graph; ONNX Runtime encodes.
    /// "onnxruntime": ONNX Runtime's CPU or CUDA provider. "tensorrt": its TensorRT provider, which builds its own
    /// engines from the bundle's graphs unless prebuilt ones are used. "auto": native on a CPU if it supports the
    /// precision and the bundle holds the scorer's weights, else onnxruntime.
    std::string backend = "auto";
    /// One of the bundle's; for native fp32, fp16, or bf16, which rounds the factors of the scorer's products.
    std::string precision = "fp32";
    /// "cpu", "cuda" or "auto": the GPU if ONNX Runtime has a provider for it and NVIDIA's driver is installed.
    std::string device = "auto";
    /// Threads of the scorer on the CPU, at most 1,024. 0: OMP_NUM_THREADS if set, else all cores that the process's
    /// affinity and control group allow.
    int threads = 0;
    /// Memory for one tile's intermediates; native needs it only for a compact gallery's states. 0: 64 MiB on a CPU, 1
    /// GiB on a GPU, if an engine's profile permits; from 300,000 pairs on, where Python tunes itself, 8 MiB, its usual
    /// result for a CPU.
    std::size_t tile_bytes = 0;
    /// Concurrent scorer calls on the CPU, except for native: 1 with all threads, or `threads` with one thread each. 0:
    /// one; from 300,000 pairs on `threads`, if a call has enough tiles for all.
    int workers = 0;
    /// With backend "tensorrt": run the bundle's engines of this precision, built by `caan-build-engine`, through ONNX
    /// Runtime's provider for TensorRT or for TensorRT for RTX. The provider's TensorRT must be the version that built
    /// them; it uses only their first profile. Follows ONNX Runtime's EPContext format; not yet run on a GPU.
    bool prebuilt_engines = false;
    /// With `prebuilt_engines`: also run engines not built by this user on this machine. An engine is a program.
    bool trust_engines = false;
    /// Receives warnings: truncated captions, unknown words, a precision that missed its accuracy gate, items without a
    /// score. It may be called from any thread that uses the Retriever, and must not throw. Not set: standard error.
    std::function<void(const std::string& message)> warn;
};

/// Encodes images and captions, and scores every pair with CAAN's cross-attention scorer.
///
/// A Retriever may be used from several threads at once; calls share only a pool of buffers behind a lock, and are
/// serialized in the kernel of backend native. It can be moved, not copied; a moved-from one may only be destroyed or
/// assigned to.
class CAAN_API Retriever {
public:
    /// Open a bundle and verify all its files.
    ///
    /// Throws InputError for an unknown backend, device, or precision of native; BundleError for an unusable bundle or
    /// one without the precision; MissingError for a missing device, provider or instruction set: there is no silent
    /// fallback.
    static Retriever open(const std::string& path, const Options& options = {});

    Retriever(Retriever&& other) noexcept;
    Retriever& operator=(Retriever&& other) noexcept;
    ~Retriever();

    /// Encode region features (N, R, F) of any float type. lengths (N): regions of each image, all R if empty; rows
    /// beyond are ignored. ids (N): names; none if empty.
    /// Throws DataError, naming the image, for another feature dimension, too many regions, NaN, infinity, or a region
    /// whose norm is 1e19 or more.
    Gallery encode_images(const Features& features, const std::vector<std::int64_t>& lengths = {},
                          const std::vector<std::string>& ids = {}) const;

    /// Encode captions. Captions beyond the model's limit are truncated, and words missing from the vocabulary are
    /// encoded as unknown, both with a warning. Throws DataError, naming the caption, for one that is empty or not
    /// UTF-8.
    Gallery encode_captions(const std::vector<Caption>& captions, const std::vector<std::string>& ids = {}) const;

    /// The k best images for a caption, best first; ties in the gallery's order. Without k: 10, or all if there are
    /// fewer. Items whose score is NaN or infinite, due to their states or the model's numbers, are left out, with a
    /// warning that names them.
    /// Throws DataError for k below 1 or above the number of live items, for a caption without a known word, for a
    /// query without a valid score, and as encoding does; BundleError for another model's gallery, and for states that
    /// do not match their hashes.
    std::vector<Hit> search(const Caption& query, const Gallery& gallery, std::size_t k) const;
    std::vector<Hit> search(const Caption& query, const Gallery& gallery) const;
    /// The k best captions for an image, features (R, F).
    std::vector<Hit> search(const Features& query, const Gallery& gallery, std::size_t k) const;
    std::vector<Hit> search(const Features& query, const Gallery& gallery) const;

    /// `search` for each query, sharing the encoder's and the scorer's work, without ever holding a score matrix.
    /// Returns k hits for each query, in the queries' order; fewer if items have no score.
    std::vector<std::vector<Hit>> search_many(const std::vector<Caption>& queries, const Gallery& gallery,
                                              std::size_t k) const;
    std::vector<std::vector<Hit>> search_many(const std::vector<Caption>& queries, const Gallery& gallery) const;
    /// With encoded queries: captions for a gallery of images, images for one of captions.
    std::vector<std::vector<Hit>> search_many(const Gallery& queries, const Gallery& gallery, std::size_t k) const;
    std::vector<std::vector<Hit>> search_many(const Gallery& queries, const Gallery& gallery) const;

    /// Searches of a gallery with sketches (docs/large_galleries.md). If its recall was not measured, or does not reach
    /// what is asked for, the search is exact, with a warning. Throws as `search`; InputError for a recall outside 0 to
    /// 1, for candidates below k, and for both; DataError for a gallery without sketches; BundleError for another
    /// model's, or changed ones, and for a bundle without a sketch.
    Found search(const Caption& query, const Gallery& gallery, const Search& how) const;
    Found search(const Features& query, const Gallery& gallery, const Search& how) const;
    std::vector<Found> search_many(const std::vector<Caption>& queries, const Gallery& gallery,
                                   const Search& how) const;
    std::vector<Found> search_many(const Gallery& queries, const Gallery& gallery, const Search& how) const;

    /// Scores of every image of a gallery with every caption. Texts are encoded on the fly. NaN and infinite scores are
    /// kept, with a warning that names the image or caption.
    Matrix score_matrix(const Gallery& images, const std::vector<Caption>& captions) const;
    Matrix score_matrix(const Gallery& images, const Gallery& captions) const;
    /// The same into the caller's memory: `out` has images.size() × captions.size() elements.
    void score_matrix(const Gallery& images, const std::vector<Caption>& captions, float* out) const;
    void score_matrix(const Gallery& images, const Gallery& captions, float* out) const;

    /// The same gallery in memory, in the scorer's format: queries read, convert and recompute nothing.
    Gallery load(const Gallery& gallery) const;

    /// A caption's token ids, including `<start>` and `<end>`, truncated to the model's limit, without warnings.
    /// Throws DataError for a caption that is empty or not UTF-8.
    std::vector<std::int64_t> tokenize(const Caption& caption) const;

    /// "native", "onnxruntime" or "tensorrt": the choice of "auto".
    const char* backend() const noexcept;
    /// "cpu" or "cuda": the choice of "auto".
    const std::string& device() const noexcept;
    /// F, the required columns of features.
    std::size_t region_dim() const noexcept;
    /// How often a tile buffer has grown since this Retriever was opened: for tests. Repeated calls of the same kind
    /// and size do not increase it.
    std::size_t buffer_growths() const noexcept;

private:
    struct CAAN_HIDDEN Impl;
    explicit Retriever(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

/// This library's version, as "0.1.0".
CAAN_API const char* version() noexcept;

} // namespace caan
