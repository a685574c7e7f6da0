/// Eight threads, one Retriever: concurrent calls give the same answers as serial ones. Also run under ThreadSanitizer.
#include <atomic>
#include <thread>

#include <caan/caan.h>

#include "helpers.hpp"

using namespace caan_test;

namespace {

constexpr int THREADS = 8, ROUNDS = 6;

/// Run `body(thread)` on all threads at once; the first exception of one is thrown here.
template <typename Body> void at_once(const Body& body) {
    std::atomic<int> waiting{THREADS};
    std::vector<std::exception_ptr> failures(THREADS);
    std::vector<std::thread> threads;
    for (int number = 0; number < THREADS; ++number) {
        threads.emplace_back([&, number] {
            --waiting;
            while (waiting > 0) { // start together
                std::this_thread::yield();
            }
            try {
                body(number);
            } catch (...) {
                failures[static_cast<std::size_t>(number)] = std::current_exception();
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    for (const std::exception_ptr& failure : failures) {
        if (failure) {
            std::rethrow_exception(failure);
        }
    }
}

void require(bool holds, const char* what) {
    if (!holds) { // Catch2's own checks are not for several threads
        throw std::runtime_error(what);
    }
}

bool same(const std::vector<std::vector<caan::Hit>>& found, const std::vector<std::vector<caan::Hit>>& expected_hits) {
    for (std::size_t i = 0; i < expected_hits.size(); ++i) {
        for (std::size_t rank = 0; rank < expected_hits[i].size(); ++rank) {
            if (found[i][rank].index != expected_hits[i][rank].index) {
                return false;
            }
        }
    }
    return found.size() == expected_hits.size();
}

} // namespace

TEST_CASE("eight threads search, score and encode with one retriever and one gallery") {
    caan::Options options = quiet();
    options.tile_bytes = 200'000; // several tiles, and workers, in each call
    // Native serializes calls of the kernel; only onnxruntime has workers.
    options.backend = GENERATE(as<std::string>{}, "native", "onnxruntime");
    options.workers = options.backend == "native" ? 0 : GENERATE(1, 2);
    // Nothing was used before: blocks are verified, the expander is opened and buffers grow while all run.
    const caan::Retriever shared = caan::Retriever::open(data("model.caan"), options);
    const auto plain = retriever().search_many(caption_list(), caan::Gallery::open(data("galleries/float32")), 5);
    const auto half = retriever().search_many(caption_list(), caan::Gallery::open(data("galleries/compact")), 5);
    const caan::Gallery float32 = caan::Gallery::open(data("galleries/float32"));
    const caan::Gallery compact = caan::Gallery::open(data("galleries/compact"));
    at_once([&](int thread) {
        for (int round = 0; round < ROUNDS; ++round) {
            switch ((thread + round) % 4) {
            case 0:
                require(same(shared.search_many(caption_list(), float32, 5), plain), "float32's hits");
                break;
            case 1:
                require(same(shared.search_many(caption_list(), compact, 5), half), "compact's hits");
                break;
            case 2: {
                const caan::Gallery own = shared.encode_images(features(), lengths());
                require(same(shared.search_many(shared.encode_captions(caption_list()), own, 5), plain), "own hits");
                break;
            }
            default:
                require(shared.tokenize(captions()[0]) == expected()["tokens"][0].get<std::vector<std::int64_t>>(),
                        "tokens");
                require(shared.score_matrix(float32, caption_list()).rows == 300, "rows");
            }
        }
    });
}

TEST_CASE("errors on one thread leave the others alone") {
    caan_retriever* handle = nullptr;
    caan_options options;
    caan_options_init(&options);
    options.device = "cpu";
    options.threads = 2;
    REQUIRE(caan_open(data("model.caan").c_str(), &options, &handle) == CAAN_OK);
    caan_gallery* gallery = nullptr;
    REQUIRE(caan_gallery_open(data("galleries/float32").c_str(), &gallery) == CAAN_OK);
    at_once([&](int thread) {
        for (int round = 0; round < 20; ++round) {
            caan_hit hits[3];
            const auto k = static_cast<std::size_t>(thread % 2 == 0 ? 3 : 1000 + thread);
            const int code = caan_search(handle, "w1 w2", gallery, k, hits);
            require(code == (thread % 2 == 0 ? CAAN_OK : CAAN_INPUT), "code");
            const std::string says = thread % 2 == 0 ? "" : "k is " + std::to_string(1000 + thread);
            require(std::string(caan_last_error()).substr(0, says.size()) == says, "message");
            require(thread % 2 == 1 || *caan_last_error() == '\0', "another thread's message");
        }
    });
    caan_gallery_close(gallery);
    caan_close(handle);
}
