/// Words to ids: the tokenizers and the vocabulary, as in data/vocabulary.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <caan/caan.hpp>

namespace caan::detail {

/// A text in lower case to its words.
using Tokenizer = std::vector<std::string> (*)(std::u32string_view text);

class Vocabulary {
public:
    /// Read SCAN's form `{"word2idx", "idx2word", "idx"}`, this project's, or a plain `{word: id}`.
    /// Throws DataError if the file is missing, is not JSON, or holds no vocabulary.
    static Vocabulary load(const std::string& path);
    /// As `load`, from the content of the file at `path`.
    static Vocabulary parse(const std::string& content, const std::string& path);

    /// Rows that an embedding for this vocabulary needs: the largest id plus one.
    std::int64_t size() const noexcept { return size_; }

    /// A caption's words, lower-case, without `<start>` and `<end>`.
    std::vector<std::string> tokenize(std::u32string_view caption) const;

    /// As `tokenize`; a caption's tokens, if it has them. Throws DataError if there is no word, or it is not UTF-8.
    std::vector<std::string> words_of(const Caption& caption) const;

    /// The ids of a caption, including `<start>` and `<end>`. Throws as `words_of`.
    std::vector<std::int64_t> encode(const Caption& caption) const { return ids_of(words_of(caption)); }

    /// As `encode`, for the words of `words_of`.
    std::vector<std::int64_t> ids_of(const std::vector<std::string>& words) const;

    /// Throws DataError if a caption's tokens look like a list of captions.
    void check_tokens(const Caption& caption) const;

    /// Whether all words of a caption's ids are unknown.
    bool all_unknown(const std::vector<std::int64_t>& ids) const;

    /// Whether a word is in the vocabulary.
    bool has(const std::string& word) const { return words_.count(word) != 0; }

private:
    std::unordered_map<std::string, std::int64_t> words_;
    std::int64_t size_ = 0, start_ = 0, end_ = 0, unknown_ = 0;
    Tokenizer tokenizer_ = nullptr;
};

} // namespace caan::detail
