/// NLTK's `word_tokenize`, as in data/treebank.py, which explains the rules.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace caan::detail {

/// The words of a text in lower case.
std::vector<std::string> word_tokenize(std::u32string_view text);

} // namespace caan::detail
