/// How many candidates a recall needs.
#pragma once

#include <cstddef>
#include <optional>

#include <caan/caan.hpp>

#include "gallery.hpp"
#include "inputs.hpp"

namespace caan::detail {

struct Plan {
    std::optional<std::size_t> candidates; // none: exact
    std::optional<Measured> recall;        // of the candidates, if measured
};

/// The candidates per query for k hits. Warns if the search is exact although a recall was asked for.
/// Throws InputError for recall and candidates that can't be, DataError for a gallery without sketches.
Plan plan_of(const Search& how, std::size_t k, const Gallery::Content& gallery, const Warn& warn);

} // namespace caan::detail
