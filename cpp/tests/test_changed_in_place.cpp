/// Mapped files that are truncated or overwritten while open: an error by name, never a bus error. The cases of
/// tests/attacks/galleries/test_changed_in_place.py.
#include <fstream>
#include <functional>

#include <fcntl.h>
#include <sys/stat.h>

#include "gallery.hpp"
#include "helpers.hpp"

using namespace caan_test;

namespace {

using Change = std::function<void(const fs::path&)>;

void overwrite_beginning(const fs::path& path) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file << std::string(64, '\0');
}

struct Case {
    const char* name;
    Change change;
    bool is_shorter;
};

const std::vector<Case>& cases() {
    static const std::vector<Case> all{
        {"shortened", [](const fs::path& path) { fs::resize_file(path, fs::file_size(path) / 3); }, true},
        {"emptied", [](const fs::path& path) { fs::resize_file(path, 0); }, true},
        {"overwritten at the beginning", overwrite_beginning, false},
        {"shortened and lengthened",
         [](const fs::path& path) {
             const auto size = fs::file_size(path);
             fs::resize_file(path, 0);
             fs::resize_file(path, size);
         },
         false},
        {"overwritten, and the time restored",
         [](const fs::path& path) {
             struct stat before {};
             REQUIRE(::stat(path.c_str(), &before) == 0);
             overwrite_beginning(path);
             const timespec times[] = {before.st_atim, before.st_mtim};
             REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
         },
         false},
    };
    return all;
}

} // namespace

TEST_CASE("a gallery's states that are changed while it is open") {
    const auto which = GENERATE(as<std::size_t>{}, 0, 1, 2, 3, 4);
    const bool is_used = GENERATE(false, true);
    const caan::Retriever& r = each_retriever();
    const Copy folder("galleries/float16");
    const caan::Gallery gallery = caan::Gallery::open(folder);
    if (is_used) {
        r.search("w1 w2", gallery, 3);
    }
    INFO(cases()[which].name);
    cases()[which].change(folder / "states.bin");
    for (int again = 0; again < 2; ++again) {
        const std::string message = refused([&] { r.search("w1 w2", gallery, 3); });
        CHECK(has(message, (folder / "states.bin").string()));
        CHECK(has(message, cases()[which].is_shorter ? " is truncated: " : " was changed: the states of items "));
        CHECK(refused([&] { r.load(gallery); }) == message);
    }
}

TEST_CASE("states that change while they are scored, after they were read") {
    const auto which = GENERATE(as<std::size_t>{}, 0, 1, 2, 3, 4);
    const Copy folder("galleries/float16");
    const caan::Gallery gallery = caan::Gallery::open(folder);
    retriever().search("w1 w2", gallery, 3);
    CHECK_NOTHROW(gallery.content().confirm());
    cases()[which].change(folder / "states.bin");
    CHECK(has(refused([&] { gallery.content().confirm(); }), (folder / "states.bin").string()));
}

TEST_CASE("states in memory are not affected") {
    const auto which = GENERATE(as<std::size_t>{}, 0, 1, 2, 3, 4);
    const Copy folder("galleries/float16");
    const caan::Gallery gallery = caan::Gallery::open(folder, caan::Storage::memory);
    const auto before = indices(retriever().search("w1 w2", caan::Gallery::open(folder), 3));
    cases()[which].change(folder / "states.bin");
    CHECK(indices(retriever().search("w1 w2", gallery, 3)) == before);
    CHECK(has(refused([&] { caan::Gallery::open(folder, caan::Storage::memory); }), "states.bin"));
}

TEST_CASE("replacing a gallery does not affect readers that have it open") {
    const Copy folder("galleries/float16");
    const caan::Gallery gallery = caan::Gallery::open(folder);
    const auto before = indices(retriever().search("w1 w2", gallery, 3));
    fs::remove_all(folder.path);
    CHECK(indices(retriever().search("w1 w2", gallery, 3)) == before);
}

TEST_CASE("features that are truncated while they are open") {
    const Copy file("features.npy");
    const caan::FeatureFile opened = caan::FeatureFile::open(file);
    fs::resize_file(file.path, 128);
    const caan::Features some = opened.features().image(3);
    const std::string says = file.path.string() + " was truncated while it was read: 128 bytes of ";
    CHECK(has(refused<caan::DataError>([&] { retriever().encode_images(opened.features()); }), says));
    const caan::Gallery texts = retriever().encode_captions({"w1 w2", "w3"});
    CHECK(has(refused<caan::DataError>([&] { retriever().search(some, texts, 1); }), says));
}
