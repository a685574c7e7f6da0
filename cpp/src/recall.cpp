#include "recall.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

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
        throw InputError("candidates must be k or more: " + std::to_string(*how.candidates) + " is not, k is " +
                         std::to_string(k));
    }
}

/// How many times as many live items there are as were measured.
double growth(const Curve& curve, std::size_t live) {
    return std::max(1.0, static_cast<double>(live) / static_cast<double>(curve.sample));
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
    const double allowed = static_cast<double>(n) / growth(curve, live);
    std::optional<Measured> result;
    for (std::size_t column = 0; row < curve.k.size() && column < curve.candidates.size(); ++column) {
        if (static_cast<double>(curve.candidates[column]) <= allowed) {
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
        warn("recall on " + folder + " was measured up to k = " + std::to_string(curve.k.back()) +
             "; searched exactly");
        return {};
    }
    const auto enough = [&](double found) { return found >= recall; };
    const auto found = std::find_if(curve.recall[row].begin(), curve.recall[row].end(), enough);
    if (found == curve.recall[row].end()) {
        std::array<char, 32> asked{};
        (void)std::snprintf(asked.data(), asked.size(), "%g", recall);
        warn("the recall measured on " + folder + " ends below " + asked.data() +
             " at k = " + std::to_string(curve.k[row]) + "; searched exactly");
        return {};
    }
    const auto column = static_cast<std::size_t>(found - curve.recall[row].begin());
    // A share of the items, not a number of them, where fewer were measured than there are.
    const double n = std::ceil(static_cast<double>(curve.candidates[column]) * growth(curve, live));
    if (n >= static_cast<double>(live)) {
        return {};
    }
    return {std::max(k, static_cast<std::size_t>(n)), measured(curve, row, column)};
}

} // namespace

Plan plan_of(const Search& how, std::size_t k, const Gallery::Content& gallery, const Warn& warn) {
    check(how, k);
    if (!how.candidates && how.recall.value_or(1) == 1) {
        return {};
    }
    if (gallery.sketches == nullptr) {
        const std::string name = gallery.folder.empty() ? "the gallery" : visible(gallery.folder);
        throw DataError(
            name + " has no sketches, so it can't be searched by recall or candidates; add them: caan sketch " + name);
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
