/// Damaged, unsafe or newer bundles, as in tests/test_bad_bundle.py: each is refused with Python's message.
#include "bundle.hpp"

#include <algorithm>

#include "files.hpp"
#include "helpers.hpp"

using namespace caan_test;

namespace {

const char* const GRAPH = "onnx/scorer.fp32.onnx";
const char* const AGAIN = " copy the bundle again, or export the checkpoint again";

struct Bundle : Copy {
    Bundle() : Copy("model.caan") {}

    std::string manifest() const { return (*this / "manifest.json").string(); }
    json content() const { return read_json(manifest()); }
    std::string message() const {
        caan::Options options = quiet();
        options.backend = "onnxruntime"; // which opens all the graphs
        return refused([&] { caan::Retriever::open(*this, options); });
    }
    /// The message for this manifest, after the manifest's path.
    std::string rewritten(const json& content) const {
        caan_test::write(manifest(), content.dump());
        const std::string text = message();
        INFO(text);
        REQUIRE(text.rfind(manifest(), 0) == 0);
        return text.substr(manifest().size());
    }
    /// Replace a file's content, and its hash in the manifest.
    void replace(const std::string& file, const std::string& text) const {
        caan_test::write(*this / file, text);
        json changed = content();
        changed["files"][file] = {{"size", text.size()}, {"sha256", caan::detail::sha256_of(text.data(), text.size())}};
        caan_test::write(manifest(), with_checksum(changed, 2));
    }
};

} // namespace

TEST_CASE("an undamaged bundle opens, also through a link and with slashes at its end") {
    const Bundle bundle;
    CHECK(caan::Retriever::open(bundle, quiet()).region_dim() == 12);
    CHECK(caan::Retriever::open(bundle.path.string() + "//", quiet()).device() == "cpu");
    fs::create_directory_symlink(bundle.path, bundle.path.parent_path() / "link.caan");
    CHECK(caan::Retriever::open(bundle.path.parent_path() / "link.caan", quiet()).region_dim() == 12);
}

TEST_CASE("a file that is missing, changed, truncated or a folder is named") {
    const std::string name =
        GENERATE(as<std::string>{}, "vocab.json", "onnx/image_encoder.fp32.onnx", "onnx/text_encoder.fp32.onnx",
                 "onnx/scorer.fp32.onnx", "onnx/explainer.fp32.onnx", "scorer_weights.npy");
    const Bundle bundle;
    const fs::path path = bundle / name;
    std::string content = read(path);
    const std::string size = std::to_string(content.size());

    fs::remove(path);
    CHECK(bundle.message() == path.string() + " is missing from the bundle;" + AGAIN);
    fs::create_directory(path);
    CHECK(bundle.message() == path.string() + " is missing from the bundle;" + AGAIN);
    fs::remove(path);
    caan_test::write(path, "");
    CHECK(bundle.message() == path.string() + " has 0 bytes, the manifest says " + size + ";" + AGAIN);
    content[content.size() / 2] ^= '\x01';
    caan_test::write(path, content);
    CHECK(bundle.message() == path.string() + " was changed: its SHA-256 is not the manifest's;" + AGAIN);
}

TEST_CASE("a name that leads outside") {
    const std::string name =
        GENERATE(as<std::string>{}, "../secret", "onnx/../../secret", "onnx\\..\\secret", "C:secret", "../nowhere",
                 "/nowhere", "onnx/../vocab.json", "..", std::string("a\0b", 3), std::string(5000, 'x'));
    const Bundle bundle;
    caan_test::write(bundle.path.parent_path() / "secret", "x");
    json manifest = bundle.content();
    manifest["files"][name] = manifest["files"]["vocab.json"];
    std::string shown = name.substr(0, 200);
    std::replace(shown.begin(), shown.end(), '\0', ' '); // which would end the message
    CHECK(bundle.rewritten(manifest) == " names '" + shown + "', outside the bundle; do not trust this bundle");
}

TEST_CASE("links that lead outside open by their content, or are refused by name") {
    const Bundle bundle;
    const fs::path outside = bundle.path.parent_path();
    fs::rename(bundle / "vocab.json", outside / "vocab.json");
    fs::create_symlink(outside / "vocab.json", bundle / "vocab.json");
    fs::rename(bundle / "onnx", outside / "onnx");
    fs::create_directory_symlink(outside / "onnx", bundle / "onnx");
    CHECK_NOTHROW(caan::Retriever::open(bundle, quiet()));
    std::string content = read(outside / "vocab.json");
    content.back() ^= '\x01';
    caan_test::write(outside / "vocab.json", content);
    CHECK(has(bundle.message(), "vocab.json was changed: its SHA-256 is not the manifest's"));
    fs::remove(bundle / "vocab.json");
    fs::create_symlink("vocab.json", bundle / "vocab.json");
    CHECK(has(bundle.message(), "vocab.json is missing from the bundle"));
}

TEST_CASE("graphs that the manifest does not list") {
    const Bundle bundle;
    json manifest = bundle.content();
    manifest["files"].erase(GRAPH);
    CHECK(bundle.rewritten(manifest) == std::string(" does not list ") + GRAPH + "; export the checkpoint again");
    manifest = bundle.content();
    manifest["precisions"]["int8"] = json::object();
    manifest["files"][GRAPH] = {{"size", fs::file_size(bundle / GRAPH)},
                                {"sha256", caan::detail::sha256_of_file(bundle / GRAPH)}};
    CHECK(has(bundle.rewritten(manifest), " does not list onnx/image_encoder.int8.onnx;"));
}

TEST_CASE("a manifest that is not JSON") {
    const std::string text = GENERATE(as<std::string>{}, "", "{", "manifest", std::string(100'000, '['),
                                      "{\"a\": 1" + std::string(5'000, '0') + "}", "\x80", "{\"a\": \"\xED\xB2\x80\"}",
                                      "{\"a\": \"\\ud800\"}", "{} x");
    const Bundle bundle;
    caan_test::write(bundle.manifest(), text);
    const std::string message = bundle.message();
    CHECK(message.rfind(bundle.manifest() + " can't be read as JSON (", 0) == 0);
    CHECK(has(message, "); export the checkpoint again"));
}

TEST_CASE("NaN and Infinity are read as Python reads them") {
    const Bundle bundle;
    std::string content = read(bundle.manifest());
    content.insert(content.find("\"tools\": {"), R"("notes": [NaN, {"NaN": -Infinity}, "NaN\"Infinity"], )");
    caan_test::write(bundle.manifest(), content);
    CHECK(caan::Retriever::open(bundle, quiet()).region_dim() == 12);
    using Version = std::pair<const char*, const char*>;
    const Version version = GENERATE(Version{"NaN", "nan"}, Version{"-Infinity", "-inf"}, Version{"Infinity", "inf"},
                                     Version{"[NaN, \"NaN\"]", "[nan, 'NaN']"});
    const std::string path = bundle.manifest();
    const auto said = [&](const std::string& text) {
        return refused([&] { caan::detail::parse_manifest(text, path); }).substr(path.size());
    };
    CHECK(said(std::string("{\"format\": \"caan-bundle\", \"version\": ") + version.first + "}") ==
          std::string(" has format version ") + version.second +
              ", this caan reads up to 1; update caan, as with git pull and pip install in its checkout");
    CHECK(said("NaN") == " is not a caan-bundle manifest; make a bundle with: caan-export model.pt");
    for (const char* broken : {"{NaN: 1}", "[NaN5]", "[+Infinity]", "{\"a\": - Infinity}", "[1e999]"}) {
        CHECK(has(said(broken), " can't be read as JSON ("));
    }
}

TEST_CASE("JSON that is not a manifest") {
    const std::string text =
        GENERATE(as<std::string>{}, "null", "[]", "5", "\"caan-bundle\"", "{}", "{\"format\": \"caan-gallery\"}");
    const Bundle bundle;
    caan_test::write(bundle.manifest(), text);
    CHECK(bundle.message() ==
          bundle.manifest() + " is not a caan-bundle manifest; make a bundle with: caan-export model.pt");
}

TEST_CASE("another format version, printed as Python prints it") {
    using Version = std::pair<json, const char*>;
    const Version version = GENERATE(Version{2, "2"}, Version{99, "99"}, Version{nullptr, "None"}, Version{"1", "1"},
                                     Version{1.0, "1.0"}, Version{true, "True"}, Version{0, "0"}, Version{-1, "-1"},
                                     Version{json::array({1, "x"}), "[1, 'x']"}, Version{1e15, "1000000000000000.0"});
    const Bundle bundle;
    json manifest = bundle.content();
    manifest["version"] = version.first;
    CHECK(bundle.rewritten(manifest) ==
          std::string(" has format version ") + version.second +
              ", this caan reads up to 1; update caan, as with git pull and pip install in its checkout");
}

TEST_CASE("a manifest entry that is missing or of the wrong type") {
    const std::string key = GENERATE(as<std::string>{}, "config", "tokenizer", "limits", "files", "precisions");
    const json value = GENERATE(json(), json(5), json::array({"x"}), json("absent"));
    const Bundle bundle;
    json manifest = bundle.content();
    if (value == "absent") {
        manifest.erase(key);
    } else {
        manifest[key] = value;
    }
    CHECK(bundle.rewritten(manifest) == " has no valid '" + key + "'; export the checkpoint again");
}

TEST_CASE("an impossible size") {
    using Place = std::pair<const char*, const char*>;
    const Place place =
        GENERATE(Place{"config", "region_dim"}, Place{"config", "embed_dim"}, Place{"config", "attention_dim"},
                 Place{"config", "vocab_size"}, Place{"limits", "regions"}, Place{"limits", "words"});
    const json value = GENERATE(json(), json("12"), json(1.5), json(0), json(-100), json(true), json(1e300));
    const Bundle bundle;
    json manifest = bundle.content();
    manifest[place.first][place.second] = value;
    CHECK(bundle.rewritten(manifest) ==
          std::string(" has no valid '") + place.first + "." + place.second + "'; export the checkpoint again");
}

TEST_CASE("a size that is not the graphs'") {
    const std::string key = GENERATE(as<std::string>{}, "region_dim", "embed_dim", "attention_dim");
    const Bundle bundle;
    json manifest = bundle.content();
    manifest["config"][key] = manifest["config"][key].get<std::int64_t>() + 1;
    manifest.erase("checksum"); // as in older bundles
    CHECK(has(bundle.rewritten(manifest), " does not fit its graphs: "));
}

TEST_CASE("the image encoder's norm has its own switch where the two differ") {
    using caan::detail::parse_manifest;
    using caan::detail::sizes_of;
    json manifest = Bundle().content();
    CHECK(sizes_of(parse_manifest(manifest.dump(), "manifest.json")).is_normalized);
    manifest["config"]["normalize"] = false;
    CHECK_FALSE(sizes_of(parse_manifest(manifest.dump(), "manifest.json")).is_normalized);
    manifest["config"].erase("normalize");
    CHECK(sizes_of(parse_manifest(manifest.dump(), "manifest.json")).is_normalized);
    for (const bool is_on : {true, false}) {
        manifest["config"]["normalize_images"] = is_on;
        manifest["config"]["normalize_texts"] = !is_on;
        CHECK(sizes_of(parse_manifest(manifest.dump(), "manifest.json")).is_normalized == is_on);
    }
}

TEST_CASE("entries that affect results, changed without a new checksum") {
    const Bundle bundle;
    const std::string text = read(bundle.manifest());
    const std::pair<std::string, std::string> changes[] = {{"\"normalize\": true", "\"normalize\": false"},
                                                           {"\"words\": 128", "\"words\": 127"},
                                                           {"\"opset\": 18", "\"opset\":  18"},
                                                           {"\"checksum\": \"", "\"checksum\": \"0"}};
    for (const auto& [found, other] : changes) {
        std::string changed = text;
        changed.replace(changed.find(found), found.size(), other);
        caan_test::write(bundle.manifest(), changed);
        CHECK(bundle.message() ==
              bundle.manifest() + " does not fit its graphs: it was changed since caan wrote it;" + AGAIN);
    }
    // A record below it may grow.
    std::string longer = text;
    longer.replace(longer.find("\"tools\": {"), 0, "\"note\": {\"checksum\": \"\"},\n  ");
    caan_test::write(bundle.manifest(), longer);
    CHECK_NOTHROW(caan::Retriever::open(bundle, quiet()));
}

TEST_CASE("an older manifest without a checksum is compared with its seal") {
    const Bundle bundle;
    json manifest = bundle.content();
    manifest.erase("checksum");
    manifest["seal"] = "0d8600e4434313e1b9d7abd657bcce18616dedc22d3646d6be9f41402ff971aa"; // as an older caan wrote it
    caan_test::write(bundle.manifest(), manifest.dump());
    CHECK_NOTHROW(caan::Retriever::open(bundle, quiet()));
    manifest["limits"]["words"] = 127;
    CHECK(bundle.rewritten(manifest) ==
          std::string(" does not fit its graphs: it was changed since caan wrote it;") + AGAIN);
}

TEST_CASE("sizes whose product would overflow") {
    const Bundle bundle;
    json manifest = bundle.content();
    manifest["config"]["attention_dim"] = std::int64_t{1} << 62;
    CHECK(has(bundle.rewritten(manifest), "attention_dim"));
}

TEST_CASE("a file's entry without hash or size") {
    const std::string text = GENERATE(as<std::string>{}, "null", "5", "\"hash\"", "{}",
                                      "{\"sha256\": null, \"size\": 5}", "{\"sha256\": \"x\"}", "{\"size\": 5}", "[]");
    const Bundle bundle;
    json manifest = bundle.content();
    manifest["files"]["vocab.json"] = json::parse(text);
    caan_test::write(bundle.manifest(), manifest.dump());
    CHECK(has(bundle.message(), "vocab.json"));
}

TEST_CASE("vocabularies that don't fit, or are not valid") {
    const Bundle bundle;
    const std::string path = (bundle / "vocab.json").string();
    json vocabulary = read_json(path);
    vocabulary["words"]["extra"] = 24;
    bundle.replace("vocab.json", vocabulary.dump());
    CHECK(bundle.message() == path + " has ids up to 24, the embedding only 24 rows; export the checkpoint again");
    for (const char* content :
         {"", "[]", "{}", "{\"format\": \"caan-vocabulary\", \"words\": {}, \"tokenizer\": [\"x\"]}"}) {
        bundle.replace("vocab.json", content);
        CHECK(has(refused<caan::InputError>([&] { caan::Retriever::open(bundle, quiet()); }), path));
    }
}

TEST_CASE("graphs that are not valid, or do not fit each other") {
    const Bundle bundle;
    bundle.replace(GRAPH, "no graph");
    const std::string message = bundle.message();
    CHECK(has(message, "ONNX Runtime "));
    CHECK(has(message, " can't load " + (bundle / GRAPH).string()));
    const std::string half = read(bundle / "onnx/scorer.fp16.onnx");
    bundle.replace(GRAPH, half);
    CHECK(bundle.message() == bundle.path.string() +
                                  ": its fp32 graphs do not fit each other, states are tensor(float) and"
                                  " tensor(float16); export the checkpoint again");
    bundle.replace(GRAPH, read(bundle / "onnx/text_encoder.fp32.onnx"));
    CHECK(has(bundle.message(),
              "is not the scorer of a caan bundle: it has the input 'tokens'; export the checkpoint again"));
}

TEST_CASE("paths that are not bundles") {
    const Bundle bundle;
    const std::string folder = bundle.path.parent_path().string();
    const std::string says = " is not a bundle: it has no manifest.json; make one with: caan-export model.pt";
    CHECK(refused([&] { caan::Retriever::open(folder, quiet()); }) == folder + says);
    CHECK(refused([&] { caan::Retriever::open(folder + "/nowhere", quiet()); }) == folder + "/nowhere" + says);
    CHECK(refused([&] { caan::Retriever::open("", quiet()); }) == "." + says);
    const std::string file = bundle.manifest();
    CHECK(refused([&] { caan::Retriever::open(file, quiet()); }) ==
          file + " is a file, not a bundle; export it first: caan-export " + file);
    CHECK(refused([&] {
              caan::Options options = quiet();
              options.precision = "int8";
              caan::Retriever::open(bundle, options);
          }) == bundle.path.string() + " has no precision 'int8'; it has: fp32, fp16");
}

TEST_CASE("a file replaced after opening: the expander is the one that was opened, or none") {
    const Bundle bundle;
    const caan::Retriever retriever = caan::Retriever::open(bundle, quiet());
    const caan::Gallery gallery = caan::Gallery::open(data("galleries/compact"));
    std::string content = read(bundle / "onnx/expander.fp32.onnx");
    content.back() ^= '\x01';
    caan_test::write(bundle / "onnx/expander.fp32.onnx", content);
    CHECK(refused([&] { retriever.search("w1", gallery, 1); }) ==
          (bundle / "onnx/expander.fp32.onnx").string() +
              " is not the file this bundle was opened with, it was replaced; open it again");
    fs::remove(bundle / "onnx/expander.fp32.onnx");
    CHECK(
        has(refused([&] { retriever.search("w1", gallery, 1); }), "No such file or directory; open the bundle again"));
}

TEST_CASE("a precision that missed its accuracy gate opens with a warning") {
    const Bundle bundle;
    json manifest = bundle.content();
    manifest["precisions"]["fp16"] = {{"status", "failed"},
                                      {"checks", json::array({{{"passed", true}, {"summary", "no"}},
                                                              {{"passed", false}, {"summary", "rsum fell"}}})}};
    caan_test::write(bundle.manifest(), with_checksum(manifest, 2));
    std::vector<std::string> warnings;
    caan::Options options = quiet();
    options.warn = [&](const std::string& message) { warnings.push_back(message); };
    caan::Retriever::open(bundle, options);
    CHECK(warnings.empty());
    options.precision = "fp16";
    caan::Retriever::open(bundle, options);
    REQUIRE(warnings.size() == 1);
    CHECK(warnings[0] == "fp16 of " + bundle.path.string() +
                             " missed its accuracy gate: rsum fell; use it to investigate, not to search");
}
