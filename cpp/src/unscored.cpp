#include "unscored.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <variant>

#include "text.hpp"

namespace caan::detail {
namespace {

constexpr std::size_t SHOWN = 3;

} // namespace

Unscored::Unscored(const Gallery::Content& images, const Texts& texts)
    : images_{"image", images.ids ? &*images.ids : nullptr, images.size(), images.live.size(), {}} {
    if (const auto* gallery = std::get_if<const Gallery::Content*>(&texts)) {
        const Gallery::Content& found = **gallery;
        captions_ = {"caption", found.ids ? &*found.ids : nullptr, found.size(), found.live.size(), {}};
    } else {
        const std::size_t count = std::get<const Tokens*>(texts)->ids.size();
        captions_ = {"caption", nullptr, count, count, {}};
    }
}

const float* Unscored::note(const Scored& scored, std::vector<float>& room) {
    const float* end = scored.scores + scored.n * scored.m;
    if (std::all_of(scored.scores, end, [](float score) { return std::isfinite(score); })) {
        return scored.scores;
    }
    room.assign(scored.scores, end);
    const std::lock_guard<std::mutex> lock(mutex_);
    images_.pairs.resize(images_.size);
    captions_.pairs.resize(captions_.size);
    for (std::size_t i = 0; i < scored.n; ++i) {
        for (std::size_t j = 0; j < scored.m; ++j) {
            if (!std::isfinite(scored.scores[i * scored.m + j])) {
                ++images_.pairs[static_cast<std::size_t>(scored.images[i])];
                ++captions_.pairs[static_cast<std::size_t>(scored.captions[j])];
                room[i * scored.m + j] = std::numeric_limits<float>::quiet_NaN();
            }
        }
    }
    return room.data();
}

void Unscored::check_hits(Kind queries, const Warn& warn) const {
    const Side& asked = queries == Kind::image ? images_ : captions_;
    const Side& items = queries == Kind::image ? captions_ : images_;
    const std::vector<std::size_t> lost = asked.without_any(items);
    if (!lost.empty()) {
        throw DataError(asked.of(lost[0]) +
                        " can't be searched with: NaN or infinity instead of a score with every item; encode again, or"
                        " export again");
    }
    const std::string names = items.of(items.with_more_than(0));
    if (!names.empty()) {
        warn("NaN or infinity instead of a score: " + names + "; left out of the hits; encode again, or export again");
    }
}

void Unscored::warn_of_matrix(const Warn& warn) const {
    // An item without any score is reported alone, not with each item of the other side.
    std::string names = images_.of(images_.with_more_than(captions_.without_any(images_).size()));
    const std::string texts = captions_.of(captions_.with_more_than(images_.without_any(captions_).size()));
    names += (names.empty() || texts.empty() ? "" : " and ") + texts;
    if (names.empty()) { // no item of either side has a score
        names = images_.of(images_.without_any(captions_));
    }
    if (!names.empty()) {
        warn("NaN or infinity instead of a score: " + names +
             "; it stays in the matrix; encode again, or export again");
    }
}

std::string Unscored::Side::of(std::size_t number) const {
    const std::string id = ids == nullptr ? "" : " (" + shortened((*ids)[number], 80) + ")";
    return name + (" " + std::to_string(number)) + id;
}

std::string Unscored::Side::of(const std::vector<std::size_t>& numbers) const {
    if (numbers.size() < 2) {
        return numbers.empty() ? "" : of(numbers[0]);
    }
    std::string shown;
    for (std::size_t i = 0; i < std::min(SHOWN, numbers.size()); ++i) {
        shown += (i == 0 ? "" : ", ") + of(numbers[i]);
    }
    return std::to_string(numbers.size()) + " " + name + "s (" + shown + (numbers.size() > SHOWN ? ", …" : "") + ")";
}

std::vector<std::size_t> Unscored::Side::with_more_than(std::size_t most) const {
    std::vector<std::size_t> numbers;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        if (pairs[i] > most) {
            numbers.push_back(i);
        }
    }
    return numbers;
}

/// Items without a score for any item of the other side.
std::vector<std::size_t> Unscored::Side::without_any(const Side& other) const {
    return other.live == 0 ? std::vector<std::size_t>() : with_more_than(other.live - 1);
}

} // namespace caan::detail
