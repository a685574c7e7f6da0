/// A gallery that is replaced while it is being opened: what opens is the old one or the new one, never a mixture.
#include <fstream>
#include <thread>

#include <sys/stat.h>

#include "helpers.hpp"

using namespace caan_test;

namespace {

/// Open a copy of the gallery "float32" that becomes "deleted" in the middle: while its lengths are read, which are
/// `lengths`.
caan::Gallery opened_while_replaced(const std::string& lengths) {
    const Copy gallery("galleries/float32");
    const fs::path pipe = gallery / "lengths.bin";
    fs::remove(pipe);
    REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
    std::thread replacing([&] {
        std::ofstream reader(pipe, std::ios::binary); // waits until somebody reads
        for (const auto& file : fs::directory_iterator(data("galleries/deleted"))) {
            const fs::path target = gallery / file.path().filename().string();
            const fs::path temporary = target.string() + ".tmp";
            fs::copy_file(file, temporary);
            fs::rename(temporary, target);
        }
        reader << lengths;
    });
    caan::Gallery opened = caan::Gallery::open(gallery);
    replacing.join();
    return opened;
}

} // namespace

TEST_CASE("replaced with parts that do not fit: it is read again") {
    CHECK(opened_while_replaced("another gallery's lengths").live() == 295);
}

TEST_CASE("replaced with all parts as they were: it is read again too, for the rest may be the new one's") {
    CHECK(opened_while_replaced(read(data("galleries/float32/lengths.bin"))).live() == 295);
}
