/* caan for C and every language with a C interface. See caan.hpp for what the functions do.
 *
 * Results:   functions that return int return CAAN_OK or an error code. On an error they leave their outputs
 *            unchanged, and caan_last_error() returns the message. No C++ exception leaves a function.
 * Text:      UTF-8, zero-terminated. Strings passed in are copied or used only during the call.
 * Sizes:     count elements, not bytes.
 * Ownership: the caller owns returned handles and closes each once. Closing NULL does nothing. A gallery may outlive
 *            its retriever.
 * Threads:   any function may be called from several threads with the same handles, except that nothing may use a
 *            handle while or after it is closed.
 */
#ifndef CAAN_H
#define CAAN_H

/* C has no other headers and no using. NOLINTBEGIN(modernize-deprecated-headers,modernize-use-using) */
#include <stddef.h>
#include <stdint.h>

#include <caan/export.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As the exit codes of the caan commands. */
enum {
    CAAN_OK = 0,
    CAAN_FAILED = 1, /* any other failure, such as out of memory */
    CAAN_INPUT = 2,  /* wrong usage or input, a damaged bundle or gallery */
    CAAN_MISSING = 4 /* a missing device or execution provider */
};

enum { CAAN_FLOAT16 = 0, CAAN_FLOAT32 = 1, CAAN_FLOAT64 = 2 };
typedef int caan_dtype; /* one of these; an int, since another value of an enum would be undefined behaviour in C++ */
typedef enum { CAAN_IMAGE = 0, CAAN_TEXT = 1 } caan_kind;

typedef struct caan_retriever caan_retriever;
typedef struct caan_gallery caan_gallery;
typedef struct caan_features caan_features;

typedef struct {
    int64_t index; /* position in the gallery */
    float score;
} caan_hit;

/* How a gallery with sketches is searched. Initialize with zeros, which is an exact search; give one of the two. */
typedef struct {
    size_t struct_size; /* sizeof(caan_sketched), or 0: this version's */
    double recall;      /* above 0 to 1; 0: not given */
    size_t candidates;  /* items scored per query, k or more; 0: not given */
} caan_sketched;

/* What it cost, and the recall of so many candidates on this gallery, with an interval of 95 %. */
typedef struct {
    size_t candidates;        /* 0: all items were scored */
    double recall, low, high; /* NaN: not measured */
} caan_found;

/* Initialize with zeros, or by caan_options_init, which also sets `struct_size`. Zero and NULL are the defaults. */
typedef struct {
    size_t struct_size;    /* sizeof(caan_options): tells a later version of the library which members exist */
    const char* backend;   /* "auto", "native", "onnxruntime", "tensorrt" */
    const char* precision; /* "fp32", "fp16", "int8"; "bf16" with native */
    const char* device;    /* "auto", "cpu", "cuda" */
    int threads;
    int workers;
    size_t tile_bytes;
    /* Receives warnings and `warn_context`, perhaps from several threads at once; the message is valid during the call.
     * NULL: warnings go to standard error. */
    void (*warn)(const char* message, void* warn_context);
    void* warn_context;
    int prebuilt_engines; /* not 0: the bundle's engines, with backend "tensorrt" */
    int trust_engines;    /* 1: also engines not built here; an engine is a program */
} caan_options;

CAAN_API void caan_options_init(caan_options* options);

/* This thread's latest error message, or "". Valid until this thread's next failing call. */
CAAN_API const char* caan_last_error(void);

/* As "0.1.0"; lives as long as the program. */
CAAN_API const char* caan_version(void);

/* Open a bundle. `options` may be NULL. */
CAAN_API int caan_open(const char* path, const caan_options* options, caan_retriever** retriever);
CAAN_API void caan_close(caan_retriever* retriever);
/* F, the required columns of features. */
CAAN_API size_t caan_region_dim(const caan_retriever* retriever);
/* "native", "onnxruntime" or "tensorrt"; lives as long as the program. */
CAAN_API const char* caan_backend(const caan_retriever* retriever);
/* "cpu" or "cuda"; lives as long as the retriever. */
CAAN_API const char* caan_device(const caan_retriever* retriever);

/* Memory-map an .npy file (images, regions, columns) of floats. */
CAAN_API int caan_features_open(const char* path, caan_features** features);
CAAN_API void caan_features_close(caan_features* features);
/* Its images, N. */
CAAN_API size_t caan_features_images(const caan_features* features);

/* Memory-map a gallery written by `caan index`. */
CAAN_API int caan_gallery_open(const char* folder, caan_gallery** gallery);
CAAN_API void caan_gallery_close(caan_gallery* gallery);
/* Items, including deleted ones. */
CAAN_API size_t caan_gallery_size(const caan_gallery* gallery);
/* Items that are not deleted. */
CAAN_API size_t caan_gallery_live(const caan_gallery* gallery);
CAAN_API caan_kind caan_gallery_kind(const caan_gallery* gallery);
/* An item's id, valid as long as the gallery; NULL without ids or beyond the last item. */
CAAN_API const char* caan_gallery_id(const caan_gallery* gallery, size_t index);

/* Encode features (images, regions, columns), in C order. lengths (images): regions of each image; NULL: all. */
CAAN_API int caan_encode_images(const caan_retriever* retriever, const void* features, caan_dtype dtype, size_t images,
                                size_t regions, size_t columns, const int64_t* lengths, caan_gallery** gallery);
/* The same for a file of features. lengths: as many as its images, or NULL. */
CAAN_API int caan_encode_file(const caan_retriever* retriever, const caan_features* features, const int64_t* lengths,
                              caan_gallery** gallery);
/* Encode captions (count). */
CAAN_API int caan_encode_captions(const caan_retriever* retriever, const char* const* captions, size_t count,
                                  caan_gallery** gallery);

/* The k best images for a caption, best first, into hits (k). If fewer than k items have a finite score, there is a
 * warning, and the last hits have the index -1. */
CAAN_API int caan_search(const caan_retriever* retriever, const char* caption, const caan_gallery* gallery, size_t k,
                         caan_hit* hits);
/* The k best captions for an image, features (regions, columns), into hits (k). */
CAAN_API int caan_search_image(const caan_retriever* retriever, const void* features, caan_dtype dtype, size_t regions,
                               size_t columns, const caan_gallery* gallery, size_t k, caan_hit* hits);
/* The k best images for each caption (count), into hits (count, k). */
CAAN_API int caan_search_many(const caan_retriever* retriever, const char* const* captions, size_t count,
                              const caan_gallery* gallery, size_t k, caan_hit* hits);
/* The k best items for each item of a gallery of the other kind, into hits (caan_gallery_size(queries), k). */
CAAN_API int caan_search_gallery(const caan_retriever* retriever, const caan_gallery* queries,
                                 const caan_gallery* gallery, size_t k, caan_hit* hits);

/* The same searches of a gallery with sketches. `how`: NULL for an exact one. `found` receives what a query cost; it
 * may be NULL. If the recall asked for wasn't measured on the gallery, or isn't reached, the search is exact, with a
 * warning. */
CAAN_API int caan_search_sketched(const caan_retriever* retriever, const char* caption, const caan_gallery* gallery,
                                  size_t k, const caan_sketched* how, caan_hit* hits, caan_found* found);
CAAN_API int caan_search_image_sketched(const caan_retriever* retriever, const void* features, caan_dtype dtype,
                                        size_t regions, size_t columns, const caan_gallery* gallery, size_t k,
                                        const caan_sketched* how, caan_hit* hits, caan_found* found);
CAAN_API int caan_search_many_sketched(const caan_retriever* retriever, const char* const* captions, size_t count,
                                       const caan_gallery* gallery, size_t k, const caan_sketched* how, caan_hit* hits,
                                       caan_found* found);
CAAN_API int caan_search_gallery_sketched(const caan_retriever* retriever, const caan_gallery* queries,
                                          const caan_gallery* gallery, size_t k, const caan_sketched* how,
                                          caan_hit* hits, caan_found* found);

/* Scores of every image with every caption (count), into scores (caan_gallery_size(images), count), in C order. */
CAAN_API int caan_score_matrix(const caan_retriever* retriever, const caan_gallery* images, const char* const* captions,
                               size_t count, float* scores);
/* The same with encoded captions, into scores (caan_gallery_size(images), caan_gallery_size(captions)). */
CAAN_API int caan_score_galleries(const caan_retriever* retriever, const caan_gallery* images,
                                  const caan_gallery* captions, float* scores);

/* A caption's token ids, including `<start>` and `<end>`. `count` receives their number, `ids` the first `capacity` of
 * them; `ids` may be NULL if `capacity` is 0. */
CAAN_API int caan_tokenize(const caan_retriever* retriever, const char* caption, int64_t* ids, size_t capacity,
                           size_t* count);

/* How often a tile buffer has grown; for tests. */
CAAN_API size_t caan_buffer_growths(const caan_retriever* retriever);

/* NOLINTEND(modernize-deprecated-headers,modernize-use-using) */

#ifdef __cplusplus
}
#endif

#endif
