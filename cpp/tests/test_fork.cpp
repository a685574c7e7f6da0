/// A process forked from one with an open bundle gets an error that says to open its own, and ends normally.
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

#include "helpers.hpp"

using namespace caan_test;

namespace {

/// Whether `body` returns true in a forked process that ends within a minute.
template <typename Body> bool in_child(const Body& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        ::_exit(body() ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

} // namespace

TEST_CASE("a forked process gets an error, may destroy its copies, and may open its own") {
    caan::Options options = quiet();
    options.backend = GENERATE(as<std::string>{}, "native", "onnxruntime");
    options.threads = 3;
    const std::string bundle = data("model.caan").string();
    std::optional<caan::Retriever> opened(caan::Retriever::open(bundle, options));
    const caan::Gallery gallery = opened->encode_images(features());
    const auto expected = indices(opened->search("w1 w2", gallery, 3));
    CHECK(in_child([&] {
        try {
            opened->search("w1 w2", gallery, 3);
            return false;
        } catch (const caan::Error& error) {
            return has(error.what(), "this process was forked from the one that opened the bundle; open it again here");
        }
    }));
    CHECK(in_child([&] {
        opened.reset();
        return true;
    }));
    CHECK(in_child([&] {
        const caan::Retriever own = caan::Retriever::open(bundle, options);
        return indices(own.search("w1 w2", gallery, 3)) == expected;
    }));
    CHECK(indices(opened->search("w1 w2", gallery, 3)) == expected);
}
