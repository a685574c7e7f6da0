/// Damaged galleries, as in tests/test_bad_gallery.py: refused by the file's name, never wrong results.
#include "gallery.hpp"

#include <cstring>
#include <random>

#include "files.hpp"
#include "gallery_folder.hpp"
#include "helpers.hpp"
#include "json.hpp"

using namespace caan_test;

namespace {

const char* const AGAIN = "; run caan index again with --overwrite";

struct Folder : Copy {
    explicit Folder(const std::string& name = "galleries/float16") : Copy(name) {}

    std::string file(const std::string& name) const { return (*this / name).string(); }
    json description() const { return read_json(file("gallery.json")); }
    /// The error of opening and searching it.
    std::string message() const {
        return refused([&] { retriever().search("w1 w2", caan::Gallery::open(*this), 3); });
    }
    /// With this description and its checksum.
    std::string sealed(const json& content) const {
        caan_test::write(file("gallery.json"), with_checksum(content, 1));
        return message();
    }
};

std::string flipped(std::string content, std::size_t place, int bit) {
    content[place] = static_cast<char>(content[place] ^ (1 << bit));
    return content;
}

} // namespace

TEST_CASE("an intact gallery's properties") {
    const caan::Gallery gallery = caan::Gallery::open(data("galleries/deleted"));
    CHECK(gallery.kind() == caan::Kind::image);
    CHECK(gallery.size() == 300);
    CHECK(gallery.live() == 295);
    CHECK(gallery.is_deleted(7));
    CHECK_FALSE(gallery.is_deleted(10));
    CHECK(gallery.ids()->at(299) == "картина 299.jpg");
    CHECK(gallery.length(3) == static_cast<std::size_t>(lengths()[3]));
    CHECK_THROWS_AS(gallery.length(300), std::out_of_range);
    CHECK_THROWS_AS(gallery.is_deleted(300), std::out_of_range);
    CHECK(caan::Gallery::open(data("galleries/texts")).ids() == nullptr);
}

TEST_CASE("a gallery's file that is missing, a folder, or truncated") {
    const std::string name = GENERATE(as<std::string>{}, "gallery.json", "states.bin", "lengths.bin", "ids.jsonl");
    const Folder folder;
    const std::string path = folder.file(name), content = read(path);
    for (const std::size_t kept : {std::size_t{0}, std::size_t{1}, content.size() / 2, content.size() - 2}) {
        caan_test::write(path, content.substr(0, kept));
        const std::string message = folder.message();
        INFO(message);
        CHECK(message.rfind(path + (name == "gallery.json" ? " can't be read as JSON (" : " is truncated: "), 0) == 0);
        CHECK(has(message, AGAIN));
    }
    fs::remove(path);
    const std::string is_none =
        folder.path.string() + " is not a gallery: it has no gallery.json; make one with: caan index BUNDLE FEATURES";
    CHECK(folder.message() ==
          (name == "gallery.json" ? is_none : path + " can't be read (No such file or directory)" + AGAIN));
    fs::create_directory(path);
    CHECK(folder.message() == (name == "gallery.json" ? is_none : path + " can't be read (Is a directory)" + AGAIN));
}

TEST_CASE("one bit flipped anywhere") {
    const std::string name = GENERATE(as<std::string>{}, "gallery.json", "states.bin", "lengths.bin", "ids.jsonl");
    const Folder folder;
    const std::string content = read(folder / name);
    std::mt19937 random(3);
    for (int round = 0; round < 60; ++round) {
        caan_test::write(folder / name,
                         flipped(content, random() % (content.size() - 1), static_cast<int>(random() % 8)));
        const std::string message = folder.message();
        INFO(message);
        REQUIRE(has(message, name));
        REQUIRE((has(message, "caan index") || has(message, "pip install")));
    }
}

TEST_CASE("damaged states name the items of their block, and only those are refused") {
    const Folder folder;
    const std::string content = read(folder / "states.bin");
    caan_test::write(folder / "states.bin", flipped(content, content.size() - 1, 0));
    const std::string says = folder.file("states.bin") +
                             " was changed: the states of items 256 to 299 are not those that were written" + AGAIN;
    CHECK(folder.message() == says);
    const caan::Gallery gallery = caan::Gallery::open(folder);
    const caan::Gallery::Content& inner = gallery.content();
    CHECK_NOTHROW((*inner.check)(0, inner.offsets[256]));
    CHECK(refused([&] { (*inner.check)(0, inner.offsets[257]); }) == says);
    CHECK(refused([&] { (*inner.check)(inner.offsets[256], inner.offsets[257]); }) == says); // again, not once
}

TEST_CASE("files of another gallery of the same sizes") {
    const Folder folder("galleries/float32");
    // 300 images whose lengths are permuted: other content, equal sizes.
    std::string lengths = read(folder / "lengths.bin");
    std::rotate(lengths.begin(), lengths.begin() + 4, lengths.end());
    caan_test::write(folder / "lengths.bin", lengths);
    CHECK(folder.message() == folder.file("lengths.bin") + " was changed: its SHA-256 is not the gallery's" + AGAIN);
}

TEST_CASE("another format version of a gallery") {
    using Case = std::pair<json, const char*>;
    const Case version = GENERATE(
        Case{1, "1, which an older caan wrote; run caan index again"},
        Case{0, "0, which an older caan wrote; run caan index again"},
        Case{5, "5, this caan reads up to 4; update caan, as with git pull and pip install in its checkout"},
        Case{nullptr, "None, this caan reads up to 4; update caan, as with git pull and pip install in its checkout"},
        Case{"2", "2, this caan reads up to 4; update caan, as with git pull and pip install in its checkout"},
        Case{true, "True, this caan reads up to 4; update caan, as with git pull and pip install in its checkout"});
    const Folder folder;
    json description = folder.description();
    description["version"] = version.first;
    caan_test::write(folder / "gallery.json", description.dump());
    CHECK(folder.message() == folder.file("gallery.json") + " has format version " + version.second);
}

TEST_CASE("a description that is not valid") {
    const std::string text = GENERATE(as<std::string>{}, "", "[", std::string(100'000, '['), "null", "5", "\"x\"",
                                      "\x80", "{\"format\": \"caan-bundle\"}");
    const Folder folder;
    caan_test::write(folder / "gallery.json", text);
    const std::string message = folder.message();
    CHECK(message.rfind(folder.file("gallery.json"), 0) == 0);
    CHECK(has(message, "caan index"));
}

TEST_CASE("a description changed under its checksum") {
    const std::string key =
        GENERATE(as<std::string>{}, "kind", "encoder", "columns", "blocks", "lengths", "deleted", "checksum");
    const json value = GENERATE(json(), json(5), json("x"));
    const Folder folder;
    json description = folder.description();
    const std::string before = with_checksum(description, 1);
    description[key] = value;
    std::string text = key == "checksum" ? description.dump(1) : with_checksum(description, 1);
    if (key != "checksum") { // the old one
        const std::size_t place = text.size() - std::strlen("\"\n}\n") - 64;
        text.replace(place, 64, before, before.size() - (text.size() - place), 64);
    }
    caan_test::write(folder / "gallery.json", text);
    CHECK(folder.message() ==
          folder.file("gallery.json") + " was changed: its SHA-256 is not the one it holds" + AGAIN);
}

TEST_CASE("an older description without a checksum") {
    // Written by an older caan.
    const std::string text = R"({
 "format": "caan-gallery",
 "version": 2,
 "kind": "image",
 "encoder": "fa35eddc79fd261b6cdac85851cd87f11d2b40c2d98aeef2b6fc273dd94a5688",
 "dtype": "float32",
 "columns": 31,
 "compact": false,
 "bundle": "../\u043c.caan",
 "blocks": [
  {
   "items": 40,
   "rows": 325,
   "sha256": "b94b3a1c3631eb444e8099fc87a47f1ec17718d38235719ff093350e2206ad02",
   "crc32": 2977651053
  }
 ],
 "lengths": {
  "size": 160,
  "sha256": "7dfa55d647c71596869f40eab9aa7c5f85d0ddd7e4f4bed3aa5ed282c45c0b33"
 },
 "ids": null,
 "deleted": [],
 "sha256": "3089634414e5c9c2e64f02ccd2eb2834b5f1782ac56ebbd93c91e4e487c78953"
}
)";
    const auto read = [](const std::string& content) { return caan::detail::parse_description(content, "g.json"); };
    CHECK(read(text).items == 40);
    for (const auto& [found, other] : {std::pair("325", "324"), std::pair("3089", "0000")}) {
        std::string changed = text;
        changed.replace(changed.find(found), std::strlen(found), other);
        CHECK(refused([&] { read(changed); }) ==
              std::string("g.json was changed: its SHA-256 is not the one it holds") + AGAIN);
    }
    std::string newer = text;
    newer.replace(newer.find("2,"), 1, "3"); // which needs more than an old seal
    CHECK(has(refused([&] { read(newer); }), "was changed"));
}

TEST_CASE("a description with a wrong seal") {
    const std::string patch = GENERATE(
        as<std::string>{}, R"({"kind": "audio"})", R"({"kind": null})", R"({"encoder": 5})", R"({"dtype": "float64"})",
        R"({"columns": 0})", R"({"columns": "41"})", R"({"columns": 9223372036854775807})", R"({"compact": 1})",
        R"({"bundle": 5})", R"({"blocks": []})", R"({"blocks": [5]})", R"({"blocks": {}})",
        R"({"blocks": [{"items": "300", "rows": 900, "sha256": "", "crc32": 0}]})",
        R"({"blocks": [{"items": 300, "rows": -900, "sha256": "", "crc32": 0}]})",
        R"({"blocks": [{"items": 0, "rows": 900, "sha256": "", "crc32": 0}]})",
        R"({"blocks": [{"items": 300, "rows": 0, "sha256": "", "crc32": 0}]})",
        R"({"blocks": [{"items": 300, "rows": 900, "sha256": 5, "crc32": 0}]})",
        R"({"blocks": [{"items": 300, "rows": 900, "sha256": ""}]})", R"({"deleted": [[0, 301]]})",
        R"({"deleted": [[5, 3]]})", R"({"deleted": [[5, 9], [7, 10]]})", R"({"deleted": [[0, true]]})",
        R"({"deleted": [["0", "1"]]})", R"({"deleted": [[0]]})", R"({"deleted": 5})", R"({"lengths": null})",
        R"({"ids": {"size": -1, "sha256": ""}})", R"({"ids": {"size": 1}})");
    const Folder folder;
    json description = folder.description();
    description.update(json::parse(patch));
    const std::string message = folder.sealed(description);
    INFO(message);
    CHECK(message.rfind(folder.file("gallery.json") + " is not a valid description (", 0) == 0);
    CHECK(has(message, std::string(")") + AGAIN));
}

TEST_CASE("a sealed description of sizes that are not the files'") {
    const std::string blocks = GENERATE(as<std::string>{}, "[[299, 900]]", "[[300, 899]]", "[[150, 400], [150, 400]]",
                                        "[[300, 1099511627775]]", "[[1099511627775, 900]]",
                                        "[[4611686018427387904, 4611686018427387904], [9223372036854775807, 1]]");
    const Folder folder;
    json description = folder.description();
    description["blocks"] = json::array();
    for (const json& block : json::parse(blocks)) {
        description["blocks"].push_back(
            {{"items", block[0]}, {"rows", block[1]}, {"sha256", std::string(64, '0')}, {"crc32", 0}});
    }
    const std::string message = folder.sealed(description);
    INFO(message);
    CHECK((has(message, "lengths.bin does not fit gallery.json; run caan index again") ||
           has(message, "gallery.json is not a valid description (")));
}

TEST_CASE("sizes in a sealed description beyond the files'") {
    const Folder folder;
    json description = folder.description();
    description["lengths"]["size"] = std::int64_t{1} << 39;
    CHECK(has(folder.sealed(description), folder.file("lengths.bin") + " is truncated: 1200 bytes of 549755813888"));
    const Folder other;
    description = other.description();
    description["columns"] = std::int64_t{1} << 19;
    CHECK(has(other.sealed(description), other.file("states.bin") + " is truncated: "));
}

TEST_CASE("ids that are not JSON strings, or too many") {
    const Folder folder;
    const auto with_ids = [&](const std::string& text) {
        caan_test::write(folder / "ids.jsonl", text);
        json description = folder.description();
        description["ids"] = {{"size", text.size()}, {"sha256", caan::detail::sha256_of(text.data(), text.size())}};
        return folder.sealed(description);
    };
    CHECK(with_ids("\"a\"\n\"b\"\n") == folder.file("ids.jsonl") + " names 2 items, the gallery has 300" + AGAIN);
    CHECK(has(with_ids("\"a\n"), folder.file("ids.jsonl")));
    CHECK(has(with_ids("\"a\"]\n[\"b\"\n"), folder.file("ids.jsonl")));
    CHECK(has(with_ids(""), folder.file("ids.jsonl") + " names 0 items, the gallery has 300"));
}

TEST_CASE("another model's gallery") {
    caan::Options options = quiet();
    options.precision = "fp16";
    const caan::Retriever half = caan::Retriever::open(data("model.caan"), options);
    CHECK(refused([&] { half.search("w1", caan::Gallery::open(data("galleries/float16")), 1); }) ==
          "this gallery was made with another model or precision; open the bundle in that precision, or encode again: "
          "caan"
          " index");
    const Folder folder;
    json description = folder.description();
    description["columns"] = 40;
    CHECK(folder.sealed(description) ==
          "this gallery's states have 40 columns, the model's 41; encode it again: caan index");
}
