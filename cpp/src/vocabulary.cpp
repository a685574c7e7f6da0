#include "vocabulary.hpp"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "files.hpp"
#include "json.hpp"
#include "text.hpp"
#include "treebank.hpp"
#include "unicode.hpp"

namespace caan::detail {
namespace {

constexpr const char* SPECIAL_TOKENS[] = {"<pad>", "<start>", "<end>", "<unk>"};

/// A word's id; true and false count as 1 and 0, as in Python. Throws DataError if it is not an id.
std::int64_t id_of(const Json& value) {
    if (value.is_boolean()) {
        return value.get<bool>() ? 1 : 0;
    }
    constexpr std::uint64_t LARGEST = std::uint64_t{1} << 53;
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > LARGEST) {
        throw DataError("the vocabulary maps some word to something that is not an id (an integer, 0 or more)");
    }
    return value.get<std::int64_t>();
}

std::unordered_map<std::string, std::int64_t> numbers_of(const Json& words) {
    for (const char* token : SPECIAL_TOKENS) {
        if (!words.contains(token)) {
            throw DataError("the vocabulary lacks " + std::string(token) +
                            "; <pad>, <start>, <end> and <unk> need the ids that the model was trained with");
        }
    }
    std::unordered_map<std::string, std::int64_t> ids;
    std::unordered_set<std::int64_t> taken;
    for (const auto& [word, value] : words.items()) {
        taken.insert(ids[word] = id_of(value));
    }
    if (taken.size() != ids.size()) {
        throw DataError("the vocabulary gives two words the same id");
    }
    return ids;
}

/// Runs of \w and of punctuation: re's `\w+|[^\w\s]+`.
std::vector<std::string> word_punct(std::u32string_view text) {
    const auto class_of = [](char32_t c) { return is_word(c) ? 1 : is_space(c) ? 0 : 2; };
    std::vector<std::string> result;
    for (std::size_t start = 0; start < text.size();) {
        const int kind = class_of(text[start]);
        std::size_t end = start + 1;
        while (end < text.size() && class_of(text[end]) == kind) {
            ++end;
        }
        if (kind != 0) {
            result.push_back(encode(text.substr(start, end - start)));
        }
        start = end;
    }
    return result;
}

constexpr std::pair<const char*, Tokenizer> TOKENIZERS[] = {
    {"whitespace", split}, {"word-punct", word_punct}, {"nltk", word_tokenize}};

Tokenizer tokenizer_of(const Json& name) {
    std::string known;
    for (const auto& [its_name, tokenizer] : TOKENIZERS) {
        if (name == its_name) {
            return tokenizer;
        }
        known += (known.empty() ? "" : ", ") + std::string(its_name);
    }
    throw DataError("unknown tokenizer '" + python_str(name) + "'; known: " + known);
}

} // namespace

Vocabulary Vocabulary::load(const std::string& path) {
    try {
        return parse(read_file(path), path);
    } catch (const std::system_error& error) {
        throw DataError("can't read the vocabulary " + path + ": " + reason(error));
    }
}

Vocabulary Vocabulary::parse(const std::string& content, const std::string& path) {
    Json read;
    try {
        read = parse_json(content);
    } catch (const JsonError& error) {
        throw DataError(path + " is not a vocabulary: not JSON in UTF-8 (" + error.what() + ")");
    }
    const Json* words = &read;
    Json tokenizer;
    if (member(read, "format") == "caan-vocabulary") {
        words = &member(read, "words");
        tokenizer = member(read, "tokenizer");
    } else if (member(read, "word2idx").is_object()) {
        words = &member(read, "word2idx");
    }
    if (!words->is_object()) {
        throw DataError(path + " is not a vocabulary: expected {word: id} or SCAN's {'word2idx': …}");
    }
    if (is_falsy(tokenizer)) {
        tokenizer = "whitespace";
    }
    try {
        Vocabulary vocabulary;
        vocabulary.tokenizer_ = tokenizer_of(tokenizer);
        vocabulary.words_ = numbers_of(*words);
        vocabulary.start_ = vocabulary.words_.at("<start>");
        vocabulary.end_ = vocabulary.words_.at("<end>");
        vocabulary.unknown_ = vocabulary.words_.at("<unk>");
        for (const auto& [word, id] : vocabulary.words_) {
            vocabulary.size_ = std::max(vocabulary.size_, id + 1);
        }
        return vocabulary;
    } catch (const DataError& error) {
        throw DataError(path + ": " + error.what());
    }
}

std::vector<std::string> Vocabulary::tokenize(std::u32string_view caption) const { return tokenizer_(lower(caption)); }

std::vector<std::string> Vocabulary::words_of(const Caption& caption) const {
    std::vector<std::string> tokens;
    if (const std::string* bytes = caption.text()) {
        const std::u32string text = decode(*bytes);
        if (has_surrogates(text)) {
            throw DataError("the caption " + ascii_repr(std::u32string_view(text).substr(0, 60)) +
                            " is not UTF-8 text; convert it first, as with iconv");
        }
        tokens = tokenize(text);
    } else if (const std::vector<std::string>* given = caption.tokens()) {
        tokens = *given;
    }
    if (tokens.empty()) {
        throw DataError("the caption is empty; write at least one word");
    }
    return tokens;
}

void Vocabulary::check_tokens(const Caption& caption) const {
    if (caption.tokens() == nullptr) {
        return;
    }
    for (const std::string& token : *caption.tokens()) {
        if (!has(token) && split(decode(token)).size() > 1) {
            throw DataError("a list is the tokens of one caption, and '" + shortened(token, 60) +
                            "' is several words; several captions go to search_many, encode_captions or score_matrix");
        }
    }
}

std::vector<std::int64_t> Vocabulary::ids_of(const std::vector<std::string>& words) const {
    std::vector<std::int64_t> ids{start_};
    ids.reserve(words.size() + 2);
    for (const std::string& word : words) {
        const auto found = words_.find(word);
        ids.push_back(found == words_.end() ? unknown_ : found->second);
    }
    ids.push_back(end_);
    return ids;
}

bool Vocabulary::all_unknown(const std::vector<std::int64_t>& ids) const {
    return std::all_of(ids.begin() + 1, ids.end() - 1, [&](std::int64_t id) { return id == unknown_; });
}

} // namespace caan::detail
