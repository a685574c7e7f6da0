/// A gallery replaced while it is being opened: the result is the old one or the new one, never a mixture.
#include <functional>
#include <utility>

#include <files.hpp>

#include "helpers.hpp"

using namespace caan_test;

namespace {

/// Items of a copy of the gallery "float32" that is replaced by "deleted" while it is first read, as modified by
/// `first`.
std::size_t read_while_replaced(const std::function<std::size_t()>& first) {
    const Copy gallery("galleries/float32");
    bool is_first = true;
    return caan::detail::read_consistently((gallery / "gallery.json").string(), [&] {
        if (!std::exchange(is_first, false)) {
            return caan::Gallery::open(gallery).live();
        }
        for (const auto& file : fs::directory_iterator(data("galleries/deleted"))) {
            const fs::path target = gallery / file.path().filename().string();
            const fs::path temporary = target.string() + ".tmp";
            fs::copy_file(file, temporary);
            fs::rename(temporary, target);
        }
        return first();
    });
}

} // namespace

TEST_CASE("replaced with parts that do not match: it is read again") {
    CHECK(read_while_replaced([]() -> std::size_t { throw caan::BundleError("of two writings"); }) == 295);
}

TEST_CASE("replaced with equal parts: it is read again too, since the rest may be new") {
    CHECK(read_while_replaced([]() -> std::size_t { return 300; }) == 295);
}

TEST_CASE("replaced again and again: reading gives up") {
    const Copy gallery("galleries/float32");
    const std::string description = (gallery / "gallery.json").string();
    CHECK(has(refused([&] {
                  caan::detail::read_consistently(description, [&] {
                      fs::copy_file(description, description + ".tmp");
                      fs::rename(description + ".tmp", description);
                      return true;
                  });
              }),
              "was replaced each of 60 times that its files were read; try again when that is over"));
}
