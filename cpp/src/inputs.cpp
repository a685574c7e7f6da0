#include "inputs.hpp"

#include <algorithm>

#include "npy.hpp"
#include "text.hpp"

namespace caan::detail {
namespace {

/// "caption 1 is", "5 captions (0, 1, 2, …) are"
std::string count(const std::vector<std::size_t>& numbers) {
    if (numbers.size() == 1) {
        return "caption " + std::to_string(numbers[0]) + " is";
    }
    std::string shown;
    for (std::size_t i = 0; i < std::min<std::size_t>(3, numbers.size()); ++i) {
        shown += (i == 0 ? "" : ", ") + std::to_string(numbers[i]);
    }
    return std::to_string(numbers.size()) + " captions (" + shown + (numbers.size() > 3 ? ", …" : "") + ") are";
}

std::string dtype_text(Dtype dtype) {
    return dtype == Dtype::float16 ? "float16" : dtype == Dtype::float32 ? "float32" : "float64";
}

std::string text_of(const Caption& caption) {
    if (caption.text() != nullptr) {
        return *caption.text();
    }
    std::string text;
    for (const std::string& token : *caption.tokens()) {
        text += (text.empty() ? "" : " ") + token;
    }
    return text;
}

/// Unknown words of captions: up to ten captions are named, the others counted.
class UnknownWords {
public:
    /// `where`: the message's beginning, as "caption 3: ".
    void add(const std::string& where, const std::vector<std::string>& words) {
        if (messages_.size() == MOST) {
            ++more_;
            return;
        }
        std::vector<std::string> different;
        for (const std::string& word : words) {
            if (std::find(different.begin(), different.end(), word) == different.end()) {
                different.push_back(word);
            }
        }
        std::string shown;
        for (std::size_t i = 0; i < std::min(MOST_WORDS, different.size()); ++i) {
            shown += (i == 0 ? "'" : ", '") + visible(shortened(different[i], MOST_LETTERS)) + "'";
        }
        messages_.push_back(where + "the vocabulary lacks " + shown + (different.size() > MOST_WORDS ? ", …" : "") +
                            ", counted as unknown");
    }

    void tell(const Warn& warn) const {
        for (const std::string& message : messages_) {
            warn(message);
        }
        if (more_ != 0) {
            warn("… and " + std::to_string(more_) + " more captions with unknown words");
        }
    }

private:
    static constexpr std::size_t MOST = 10, MOST_WORDS = 10, MOST_LETTERS = 60;
    std::vector<std::string> messages_;
    std::size_t more_ = 0;
};

} // namespace

Tokens tokenize(const std::vector<Caption>& captions, const Vocabulary& vocabulary, std::int64_t limit,
                const Warn& warn) {
    if (captions.empty()) {
        throw DataError("there is no caption; give at least one");
    }
    Tokens tokens;
    UnknownWords lacking;
    std::vector<std::size_t> were_cut, unknown;
    for (std::size_t number = 0; number < captions.size(); ++number) {
        std::vector<std::string> words;
        try {
            vocabulary.check_tokens(captions[number]);
            words = vocabulary.words_of(captions[number]);
        } catch (const DataError& error) {
            throw DataError("caption " + std::to_string(number) + ": " + error.what());
        }
        std::vector<std::int64_t> ids = vocabulary.ids_of(words);
        if (cut(ids, limit)) {
            were_cut.push_back(number);
            words.resize(ids.size() - 2);
        }
        words.erase(std::remove_if(words.begin(), words.end(), [&](const auto& word) { return vocabulary.has(word); }),
                    words.end());
        if (vocabulary.all_unknown(ids)) {
            unknown.push_back(number);
        } else if (!words.empty()) {
            lacking.add(captions.size() == 1 ? "" : "caption " + std::to_string(number) + ": ", words);
        }
        tokens.lengths.push_back(static_cast<std::int64_t>(ids.size()));
        tokens.ids.push_back(std::move(ids));
    }
    if (!were_cut.empty()) {
        warn(count(were_cut) + " longer than " + std::to_string(limit - 2) + " words; further words were dropped");
    }
    if (!unknown.empty()) {
        warn(count(unknown) + " without any word of the vocabulary; the scores mean little");
    }
    lacking.tell(warn);
    return tokens;
}

bool cut(std::vector<std::int64_t>& ids, std::int64_t limit) {
    const auto most = static_cast<std::size_t>(limit);
    if (ids.size() <= most) {
        return false;
    }
    ids[most - 1] = ids.back();
    ids.resize(most);
    return true;
}

void check_known(const Caption& caption, const Vocabulary& vocabulary) {
    vocabulary.check_tokens(caption);
    if (vocabulary.all_unknown(vocabulary.encode(caption))) {
        throw DataError("no word of '" + shortened(text_of(caption), 60) +
                        "' is in the model's vocabulary; try other words");
    }
}

void check_features(const Features& features, const Sizes& sizes) {
    const std::vector<std::size_t>& shape = features.shape;
    const std::string expected = std::to_string(sizes.region_dim);
    if (shape.size() != 3) {
        throw DataError("features must be a float array (images, regions, " + expected + "), not " + shape_str(shape));
    }
    if (shape[0] == 0) {
        throw DataError("there is no image; give at least one");
    }
    if (shape[2] != static_cast<std::size_t>(sizes.region_dim)) {
        throw DataError("features have dimension " + std::to_string(shape[2]) + ", the model was trained on " +
                        expected);
    }
    if (shape[1] < 1 || shape[1] > static_cast<std::size_t>(sizes.most_regions)) {
        throw DataError("features have " + std::to_string(shape[1]) + " regions per image, the model takes 1 to " +
                        std::to_string(sizes.most_regions));
    }
}

void check_image(const Features& features, const Sizes& sizes) {
    const std::vector<std::size_t>& shape = features.shape;
    if (shape.size() != 2 || shape[1] != static_cast<std::size_t>(sizes.region_dim) || shape[0] == 0) {
        throw DataError("image 0 must be a float array (regions, " + std::to_string(sizes.region_dim) + "), not " +
                        dtype_text(features.dtype) + " " + shape_str(shape));
    }
}

std::vector<std::int64_t> image_lengths(const Features& features, const std::vector<std::int64_t>& lengths) {
    const std::size_t images = features.shape[0];
    const auto regions = static_cast<std::int64_t>(features.shape[1]);
    if (lengths.empty()) {
        return std::vector<std::int64_t>(images, regions);
    }
    if (lengths.size() != images) {
        throw DataError("lengths must be " + std::to_string(images) + " integers, one per image, not int64 " +
                        shape_str({lengths.size()}));
    }
    const auto [least, most] = std::minmax_element(lengths.begin(), lengths.end());
    if (*least < 1 || *most > regions) {
        throw DataError("lengths must be 1 to " + std::to_string(regions) + ", the regions in the features, not " +
                        std::to_string(*least) + " to " + std::to_string(*most));
    }
    return lengths;
}

} // namespace caan::detail
