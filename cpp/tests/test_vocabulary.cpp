/// Vocabularies in their three forms, the tokenizers, and captions to ids, as in tests/data/test_vocabulary.py.
#include "vocabulary.hpp"

#include "helpers.hpp"
#include "json.hpp"
#include "text.hpp"
#include "unicode.hpp"

using caan::detail::Vocabulary;
using caan_test::has;
using caan_test::json;
using caan_test::refused;
using Ids = std::vector<std::int64_t>;
using Words = std::vector<std::string>;

namespace {

const json WORDS = {{"<pad>", 0}, {"<start>", 1}, {"<end>", 2}, {"<unk>", 3}, {"dog", 4}, {"snow", 5}, {"café", 9}};

Vocabulary ours(const std::string& tokenizer) {
    const json content = {{"format", "caan-vocabulary"}, {"version", 1}, {"tokenizer", tokenizer}, {"words", WORDS}};
    return Vocabulary::parse(content.dump(), "v.json");
}

Words tokens(const std::string& tokenizer, const std::string& caption) {
    return ours(tokenizer).tokenize(caan::detail::decode(caption));
}

std::string message(const std::string& content) {
    return refused<caan::DataError>([&] { Vocabulary::parse(content, "v.json"); });
}

json with(const std::string& word, const json& id) {
    json words = WORDS;
    words[word] = id;
    return words;
}

} // namespace

TEST_CASE("each form of vocabulary is read") {
    const json scan = {{"word2idx", WORDS}, {"idx2word", {{"0", "<pad>"}}}, {"idx", 6}};
    for (const std::string& content : {scan.dump(), WORDS.dump()}) {
        const Vocabulary vocabulary = Vocabulary::parse(content, "v.json");
        CHECK(vocabulary.size() == 10);
        CHECK(vocabulary.encode("dog's CAFÉ") == Ids{1, 3, 9, 2});
    }
    CHECK(ours("word-punct").encode("dog's") == Ids{1, 4, 3, 3, 2});
}

TEST_CASE("a caption becomes ids between start and end; tokens are used unchanged") {
    const Vocabulary vocabulary = ours("whitespace");
    CHECK(vocabulary.encode("dog SNOW") == Ids{1, 4, 5, 2});
    CHECK(vocabulary.encode("zebra dog") == Ids{1, 3, 4, 2});
    CHECK(vocabulary.encode(Words{"Dog", "dog"}) == Ids{1, 3, 4, 2});
    CHECK(vocabulary.encode("<end> <pad>") == Ids{1, 2, 0, 2});
}

TEST_CASE("special words are found by name") {
    const json words = {{"<pad>", 7}, {"<unk>", 0}, {"<start>", 2}, {"<end>", 30}, {"dog", 1}, {"snow", 3}};
    const Vocabulary vocabulary = Vocabulary::parse(words.dump(), "v.json");
    CHECK(vocabulary.size() == 31);
    CHECK(vocabulary.encode("dog zebra snow") == Ids{2, 1, 0, 3, 30});
    CHECK(vocabulary.all_unknown(vocabulary.encode("zebra snake")));
    CHECK(!vocabulary.all_unknown(vocabulary.encode("zebra snow")));
}

TEST_CASE("the tokenizers cut as Python's do") {
    CHECK(tokens("whitespace", "A dog, in\tthe  snow.") == Words{"a", "dog,", "in", "the", "snow."});
    CHECK(tokens("word-punct", "A dog's ball, in the snow... 3.5 m!") ==
          Words{"a", "dog", "'", "s", "ball", ",", "in", "the", "snow", "...", "3", ".", "5", "m", "!"});
    // Unicode's spaces, and ASCII's separators 0x1C to 0x1F; not a zero-width space.
    CHECK(tokens("whitespace", "a\u00a0b\u3000c\x1f"
                               "d\u0085e\u200bf") == Words{"a", "b", "c", "d", "e\u200bf"});
    // \w matches numbers of all kinds and the underscore, not combining marks.
    CHECK(tokens("nltk", "He said \"it's a dog's t-shirt.\" Mr. Smith can't (cannot) pay $3.50...") ==
          Words{"he",    "said", "``",  "it", "'s",  "a",   "dog", "'s",  "t-shirt", ".",    "''", "mr.",
                "smith", "ca",   "n't", "(",  "can", "not", ")",   "pay", "$",       "3.50", "..."});
    CHECK(tokens("nltk", "“A man.” 'Tis: \u20142.5, gonna") ==
          Words{"“", "a", "man", ".", "”", "'", "tis", ":", "—", "2.5", ",", "gon", "na"});
    CHECK(tokens("word-punct", "x_½²٣ e\u0301") == Words{"x_½²٣", "e", "\u0301"});
}

TEST_CASE("lower case as Python's str.lower") {
    const auto lowered = [](const std::string& text) {
        return caan::detail::encode(caan::detail::lower(caan::detail::decode(text)));
    };
    CHECK(lowered("ΑΣ ΣΑΣ Σ") == "ας σας σ");
    CHECK(lowered("ΑΣ\u00ad\u0301Α ΑΣ'") == "ασ\u00ad\u0301α ας'");
    CHECK(lowered("İI") == "i̇i");
    CHECK(lowered("ẞ Ǆ ǅ ᾼ Ⴀ Ꭰ Ａ 𐐀") == "ß ǆ ǆ ᾳ ⴀ ꭰ ａ 𐐨");
}

TEST_CASE("captions without a word, or not UTF-8") {
    const Vocabulary vocabulary = ours("whitespace");
    const auto message_of = [&](const caan::Caption& caption) {
        return refused<caan::DataError>([&] { vocabulary.encode(caption); });
    };
    for (const caan::Caption& caption : {caan::Caption(""), caan::Caption(" \t\n\u3000"), caan::Caption(Words{})}) {
        CHECK(message_of(caption) == "the caption is empty; write at least one word");
    }
    CHECK(message_of("caf\xe9 w1") == "the caption 'caf\\udce9 w1' is not UTF-8 text; convert it first, as with iconv");
    // Cut off, overlong, a surrogate, beyond the last code point.
    for (const char* text : {"\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff", "a \x80"}) {
        CHECK(has(message_of(text), "is not UTF-8 text"));
    }
}

TEST_CASE("files that are not vocabularies") {
    CHECK(has(message(""), "v.json is not a vocabulary: not JSON in UTF-8 ("));
    CHECK(has(message("{\"\xe9\": 1}"), "v.json is not a vocabulary: not JSON in UTF-8 ("));
    CHECK(message("[]") == "v.json is not a vocabulary: expected {word: id} or SCAN's {'word2idx': …}");
    const std::string special = "; <pad>, <start>, <end> and <unk> need the ids that the model was trained with";
    CHECK(message("{}") == "v.json: the vocabulary lacks <pad>" + special);
    CHECK(message(R"({"<pad>": 0, "<unk>": 1, "<start>": 2})") == "v.json: the vocabulary lacks <end>" + special);
    CHECK(message(with("<unk>", 4).dump()) == "v.json: the vocabulary gives two words the same id");
    CHECK(message(with("cat", 4).dump()) == "v.json: the vocabulary gives two words the same id");
    const std::string no_id =
        "v.json: the vocabulary maps some word to something that is not an id (an integer, 0 or more)";
    for (const json& id : {json(-1), json(1.5), json("7"), json(nullptr), json::array(), json(9223372036854775807)}) {
        CHECK(message(with("cat", id).dump()) == no_id);
    }
    CHECK(message(json{{"format", "caan-vocabulary"}, {"words", WORDS}, {"tokenizer", "bert"}}.dump()) ==
          "v.json: unknown tokenizer 'bert'; known: whitespace, word-punct, nltk");
    CHECK(refused<caan::DataError>([] { Vocabulary::load("/nowhere/v.json"); }) ==
          "can't read the vocabulary /nowhere/v.json: No such file or directory");
}

TEST_CASE("Python's tokens for every caption of the test data") {
    const auto captions = caan_test::caption_list();
    for (std::size_t i = 0; i < captions.size(); ++i) {
        CHECK(caan_test::retriever().tokenize(captions[i]) == caan_test::expected()["tokens"][i].get<Ids>());
    }
}

TEST_CASE("JSON is printed as Python prints it") {
    using caan::detail::python_dumps;
    using caan::detail::python_str;
    CHECK(python_str(json::parse(R"({"a": [null, true, 1.0, -2], "é'": "x"})")) ==
          "{'a': [None, True, 1.0, -2], \"\\xe9'\": 'x'}");
    CHECK(python_str(nlohmann::ordered_json::parse(R"({"b": 1, "a": [1e15, 1e16, 1e-4, 1e-5, -0.0, 123.25]})")) ==
          "{'b': 1, 'a': [1000000000000000.0, 1e+16, 0.0001, 1e-05, -0.0, 123.25]}");
    CHECK(python_dumps(caan::detail::parse_json("[NaN, -Infinity, 1e22]")) == "[NaN, -Infinity, 1e+22]");
    CHECK(python_dumps(json::parse(R"({"b": [1, "é\n\"\u007f"], "a": {}})")) ==
          R"({"a": {}, "b": [1, "\u00e9\n\"\u007f"]})");
}

TEST_CASE("paths are printed as pathlib prints them") {
    using caan::detail::normal_path;
    CHECK(normal_path("a//b/./c/") == "a/b/c");
    CHECK(normal_path("./") == ".");
    CHECK(normal_path("/") == "/");
    CHECK(normal_path("//a") == "//a");
    CHECK(normal_path("///a/../b") == "/a/../b");
}
