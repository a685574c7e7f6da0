#include "recall.hpp"

#include <algorithm>

#include "json.hpp"
#include "text.hpp"

namespace caan::detail {
namespace {

void check(const Search& how, std::size_t k) {
    if (how.recall && how.candidates) {
        throw InputError("give recall or candidates, not both");
    }
    if (how.recall && !(*how.recall > 0 && *how.recall <= 1)) {
        throw InputError("recall is " + python_str(Json(*how.recall)) + "; ask for more than 0, at most 1");
    }
    if (how.candidates && *how.candidates < k) {
        throw InputError("candidates must be k or more");
    }
}

/// So many candidates of `live` items, where they were measured among fewer: rounded up.
std::size_t scaled(std::int64_t candidates, const Curve& curve, std::size_t live) {
    const auto sample = static_cast<std::size_t>(curve.sample), n = static_cast<std::size_t>(candidates);
    // Each below 2^40; in double, the product is exact to more than 15 digits.
    return sample >= live ? n : n / sample * live + (n % sample * live + sample - 1) / sample;
}

Measured measured(const Curve& curve, std::size_t row, std::size_t column) {
    return {curve.recall[row][column], curve.low[row][column], curve.high[row][column]};
}

/// The curve's row for k hits: that of the next larger k. Its length if there is none.
std::size_t row_for(const Curve& curve, std::size_t k) {
    const auto found = std::lower_bound(curve.k.begin(), curve.k.end(), static_cast<std::int64_t>(k));
    return static_cast<std::size_t>(found - curve.k.begin());
}

/// The recall of n candidates: that of the next fewer that were measured.
std::optional<Measured> recall_of(const Curve& curve, std::size_t k, std::size_t n, std::size_t live) {
    const std::size_t row = row_for(curve, k);
    std::optional<Measured> result;
    for (std::size_t column = 0; row < curve.k.size() && column < curve.candidates.size(); ++column) {
        if (scaled(curve.candidates[column], curve, live) <= n) {
            result = measured(curve, row, column);
        }
    }
    return result;
}

Plan by_recall(double recall, std::size_t k, const Sketches& sketches, std::size_t live, const Warn& warn) {
    const std::string folder = visible(sketches.folder());
    if (!sketches.entry().curve) {
        warn(folder + " has no measured recall; searched exactly; measure it: caan sketch " + folder + " --measure");
        return {};
    }
    const Curve& curve = *sketches.entry().curve;
    const std::size_t row = row_for(curve, k);
    if (row == curve.k.size()) {
        warn("recall on " + folder + " was measured up to k = " +
             (curve.k.empty() ? "0" : std::to_string(curve.k.back())) + "; searched exactly");
        return {};
    }
    const auto enough = [&](double found) { return found >= recall; };
    const auto found = std::find_if(curve.recall[row].begin(), curve.recall[row].end(), enough);
    if (found == curve.recall[row].end()) {
        warn("the recall measured on " + folder + " ends below " + python_str(Json(recall)) +
             " at k = " + std::to_string(k) + "; searched exactly");
        return {};
    }
    const auto column = static_cast<std::size_t>(found - curve.recall[row].begin());
    const std::size_t n = std::max(k, scaled(curve.candidates[column], curve, live));
    return n >= live ? Plan{} : Plan{n, measured(curve, row, column)};
}

} // namespace

Plan plan_of(const Search& how, std::size_t k, const Gallery::Content& gallery, const Warn& warn) {
    check(how, k);
    if (!how.candidates && how.recall.value_or(1) == 1) {
        return {};
    }
    if (gallery.sketches == nullptr) {
        const std::string name = gallery.folder.empty() ? "this gallery" : visible(gallery.folder);
        throw DataError(name +
                        " has no sketches, so it can't be searched by recall or candidates; add them: caan sketch " +
                        (gallery.folder.empty() ? "GALLERY" : visible(gallery.folder)));
    }
    const Sketches& sketches = *gallery.sketches;
    const std::size_t live = gallery.live.size();
    if (how.recall) {
        return by_recall(*how.recall, k, sketches, live, warn);
    }
    if (*how.candidates >= live) {
        return {};
    }
    const std::optional<Curve>& curve = sketches.entry().curve;
    return {how.candidates, curve ? recall_of(*curve, k, *how.candidates, live) : std::nullopt};
}

} // namespace caan::detail
