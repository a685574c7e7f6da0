/// Pairs without a score, due to NaN in an item's states or an overflow. They are reported, never ranked.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "gallery.hpp"
#include "inputs.hpp"
#include "scoring.hpp"

namespace caan::detail {

/// Counts pairs with a NaN or infinite score in a stream of scores. May be used from several threads.
class Unscored {
public:
    Unscored(const Gallery::Content& images, const Texts& texts);

    /// Count those of a block. Returns its scores with NaN for each of them: in place, or in `room`.
    const float* note(const Scored& scored, std::vector<float>& room);

    /// After a search: throws DataError, naming it, for a query without any score; warns about items left out.
    /// `queries`: the side of the queries.
    void check_hits(Kind queries, const Warn& warn) const;
    /// After a score matrix: warns about images and captions that lack scores.
    void warn_of_matrix(const Warn& warn) const;

private:
    struct Side {
        const char* name;                         // "image" or "caption"
        const std::vector<std::string>* ids;      // or null
        std::size_t size, live;                   // items, and those that are not deleted
        std::vector<std::size_t> pairs;           // without a score, of each item; empty until there is one
        std::string of(std::size_t number) const; // "image 3 (a.jpg)"
        std::string of(const std::vector<std::size_t>& numbers) const;
        std::vector<std::size_t> with_more_than(std::size_t most) const;
        std::vector<std::size_t> without_any(const Side& other) const;
    };

    Side images_, captions_;
    std::mutex mutex_;
};

} // namespace caan::detail
