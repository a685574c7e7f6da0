/// caan in C++: opens a bundle that `caan-export` wrote, encodes, searches and scores. The answers, defaults, checks
/// and messages are those of the Python package's `caan.runtime`.
///
///     caan::Retriever retriever = caan::Retriever::open("model.caan");
///     caan::FeatureFile file = caan::FeatureFile::open("features.npy");          // (N, R, F)
///     caan::Gallery gallery = retriever.encode_images(file.features());
///     for (const caan::Hit& hit : retriever.search("two dogs play in the snow", gallery, 10)) ...
///
/// Text is UTF-8. Sizes are of elements, not bytes. Whatever fails throws a subclass of caan::Error.
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

/// Base of all errors that caan raises on purpose: something failed that is neither the input nor the machine.
class CAAN_API Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
    ~Error() override;
    /// What a command that meets it exits with: 1 here, 2 for InputError, 4 for MissingError.
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

/// A library, device or execution provider that is not there.
class CAAN_API MissingError : public Error {
public:
    using Error::Error;
    ~MissingError() override;
    int exit_code() const noexcept override;
};

/// A caption: text, which the bundle's tokenizer cuts, or a list of tokens, which are taken as they are.
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

/// A view of region features in C order: (images, regions, columns), or (regions, columns) of one image. The memory is
/// the caller's and is read during the call that takes the view.
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
    /// Throws DataError, naming the file, if it is missing, no .npy file, truncated, empty, not of three axes, or of
    /// another type or order.
    static FeatureFile open(const std::string& path);
    /// Valid as long as this object or a copy of it lives.
    const Features& features() const noexcept;

    struct CAAN_HIDDEN Content; // the library's own

private:
    std::shared_ptr<const Content> content_;
};

enum class Kind { image, text };

/// Where an opened gallery's states are: in the file, and read from there whenever they are used; or in memory, where
/// nothing that happens to the file reaches them.
enum class Storage { mapped, memory };

/// Encoded images or captions, ready to be scored: in memory, or memory-mapped from a folder that `caan index` wrote.
/// Immutable, apart from what a Retriever notes about hashes that it has compared; copies are cheap and share it all.
/// May be used from several threads, and with several Retrievers of the same bundle.
class CAAN_API Gallery {
public:
    /// Open a gallery. Small files are compared with their hashes now, a block of mapped states when it is first used,
    /// and again when the file was changed where it lies. Shortening a mapped file may end the process (SIGBUS): take
    /// Storage::memory on storage that others write to.
    /// Throws BundleError, naming the file, for one that is missing, damaged, swapped or newer.
    static Gallery open(const std::string& folder, Storage storage = Storage::mapped);

    Kind kind() const noexcept;
    /// Items, deleted ones included: an index is below this.
    std::size_t size() const noexcept;
    /// Items that are not deleted.
    std::size_t live() const noexcept;
    bool is_deleted(std::size_t index) const;
    /// Regions or words of an item.
    std::size_t length(std::size_t index) const;
    /// One name per item, or null.
    const std::vector<std::string>* ids() const noexcept;
    /// SHA-256 of the graph that made the states.
    const std::string& encoder() const noexcept;
    /// The bundle that made the gallery, relative to the gallery's folder; empty if that is not known.
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

/// Scores (rows = images, columns = captions) in C order; -infinity for deleted items.
struct Matrix {
    std::size_t rows = 0;
    std::size_t columns = 0;
    std::vector<float> values;
    float operator()(std::size_t image, std::size_t caption) const { return values[image * columns + caption]; }
};

struct Options {
    /// "native": the scorer compiled for this processor, several times as fast as a graph; ONNX Runtime encodes.
    /// "onnxruntime": ONNX Runtime's CPU or CUDA provider. "tensorrt": its TensorRT provider, which makes its own
    /// engines of the bundle's graphs unless it is given prebuilt ones. "auto": native on a CPU for the precisions that
    /// it has and a bundle that holds the scorer's weights, else onnxruntime.
    std::string backend = "auto";
    /// One that the bundle has; for native fp32, fp16, or bf16, which rounds the factors of the scorer's products.
    std::string precision = "fp32";
    /// "cpu", "cuda" or "auto": the GPU where ONNX Runtime has a provider for it and NVIDIA's driver is there.
    std::string device = "auto";
    /// Of the scorer on the CPU, at most 1,024. 0: OMP_NUM_THREADS where it is set, else all cores that the process may
    /// use, by its affinity and its control group's share.
    int threads = 0;
    /// Memory for one tile's intermediates; native has none, but for a compact gallery's states. 0: 64 MiB on a CPU, 1
    /// GiB on a GPU, an engine's profile permitting; from 300,000 pairs on, where Python tunes itself, the 8 MiB that
    /// it mostly finds for a CPU.
    std::size_t tile_bytes = 0;
    /// Scorer calls side by side on the CPU, but not of native: 1, each with all threads, or `threads`, each with one
    /// thread. 0: one, and from 300,000 pairs on side by side where a call has enough tiles for all.
    int workers = 0;
    /// With backend "tensorrt": run the engines of this precision that `caan-build-engine` put into the bundle, through
    /// ONNX Runtime's provider for TensorRT, or that for TensorRT for RTX. It must be of the TensorRT that built them,
    /// and knows their first profile alone. Written to ONNX Runtime's EPContext format, not yet run on a GPU.
    bool prebuilt_engines = false;
    /// With `prebuilt_engines`: also run those that this user did not build on this machine. An engine is a program.
    bool trust_engines = false;
    /// Gets each warning: a caption that was cut, words that are not known, a precision that missed its accuracy gate,
    /// an item without a score.
    /// It may be called from any thread that uses the Retriever, and must not throw. Not set: standard error.
    std::function<void(const std::string& message)> warn;
};

/// Encodes images and captions, and scores every pair with CAAN's cross-attention scorer.
///
/// A Retriever may be used from several threads at once; calls share no state but buffers that are handed out under a
/// lock, and take turns at the kernel of backend native. It can be moved, not copied; one that was moved from may only
/// be destroyed or assigned to.
class CAAN_API Retriever {
public:
    /// Open a bundle and verify all its files.
    ///
    /// Throws InputError for an unknown backend, device, or precision of native; BundleError for a bundle that can't be
    /// used, or without the precision; MissingError for a device, provider or instruction that is not there: none is
    /// ever dropped silently.
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

    /// Encode captions. One longer than the model's limit is cut, words that the vocabulary lacks are scored as unknown
    /// ones; both with a warning. Throws DataError, naming the caption, for one that is empty or not UTF-8.
    Gallery encode_captions(const std::vector<Caption>& captions, const std::vector<std::string>& ids = {}) const;

    /// The k best images for a caption, best first; equal scores in the gallery's order. Without k: 10, or all there
    /// are. An item whose score is NaN or infinite, as its states or the model's numbers may make it, is left out, with
    /// a warning that names it.
    /// Throws DataError for k below 1 or above the items that are left, for a caption without a known word, for a query
    /// that has a score with no item, and as encoding does; BundleError for another model's gallery, and for states
    /// that are not those that were written.
    std::vector<Hit> search(const Caption& query, const Gallery& gallery, std::size_t k) const;
    std::vector<Hit> search(const Caption& query, const Gallery& gallery) const;
    /// The k best captions for an image, features (R, F).
    std::vector<Hit> search(const Features& query, const Gallery& gallery, std::size_t k) const;
    std::vector<Hit> search(const Features& query, const Gallery& gallery) const;

    /// As `search` for each query, sharing the encoder's and the scorer's work. No score matrix is ever made.
    /// Returns k hits for each query, in their order; fewer where items have no score.
    std::vector<std::vector<Hit>> search_many(const std::vector<Caption>& queries, const Gallery& gallery,
                                              std::size_t k) const;
    std::vector<std::vector<Hit>> search_many(const std::vector<Caption>& queries, const Gallery& gallery) const;
    /// With queries that are encoded: captions for a gallery of images, images for one of captions.
    std::vector<std::vector<Hit>> search_many(const Gallery& queries, const Gallery& gallery, std::size_t k) const;
    std::vector<std::vector<Hit>> search_many(const Gallery& queries, const Gallery& gallery) const;

    /// Scores of every image of a gallery with every caption. Texts are encoded on the way. One that is NaN or infinite
    /// stays so, with a warning that names the image or caption.
    Matrix score_matrix(const Gallery& images, const std::vector<Caption>& captions) const;
    Matrix score_matrix(const Gallery& images, const Gallery& captions) const;
    /// The same into the caller's memory: `out` has images.size() × captions.size() elements.
    void score_matrix(const Gallery& images, const std::vector<Caption>& captions, float* out) const;
    void score_matrix(const Gallery& images, const Gallery& captions, float* out) const;

    /// The same gallery in memory, as the scorer takes it: nothing is read, widened or computed again per query.
    Gallery load(const Gallery& gallery) const;

    /// A caption's token ids, `<start>` and `<end>` included, cut to the model's limit, without warnings.
    /// Throws DataError for a caption that is empty or not UTF-8.
    std::vector<std::int64_t> tokenize(const Caption& caption) const;

    /// "native", "onnxruntime" or "tensorrt": what "auto" became.
    const char* backend() const noexcept;
    /// "cpu" or "cuda": what "auto" became.
    const std::string& device() const noexcept;
    /// F, which features must have.
    std::size_t region_dim() const noexcept;
    /// How often a buffer for tiles has grown since this Retriever was opened: for tests. Once calls of a kind have
    /// been made, further ones of their size leave it as it is.
    std::size_t buffer_growths() const noexcept;

private:
    struct CAAN_HIDDEN Impl;
    explicit Retriever(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

/// This library's version, as "0.1.0".
CAAN_API const char* version() noexcept;

} // namespace caan
