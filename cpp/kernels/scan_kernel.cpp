#include "scan_kernel.hpp"

#include "kernel.hpp"
#include "targets.hpp"

// This file is compiled once per instruction set, each time in its own namespace.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "scan_kernel.cpp"
#include <hwy/foreach_target.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "sums-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D16 = hn::CappedTag<std::int16_t, kQueryPadding>;
using D32 = hn::RepartitionToWide<D16>;

/// Sketches of one step stay in the L1 cache for all queries.
constexpr std::size_t kStepBytes = std::size_t{16} << 10;
constexpr std::size_t kStepRows = kStepBytes / 16;

/// Sketches whose sums are computed together.
constexpr std::size_t kRows = 4;

/// The sums of kRows sketches with kQueries queries: sums (kQueries, sums_stride). kColumns: the same as `columns` if
/// it is the usual number, for which loops are unrolled; else 0.
template <std::size_t kQueries, std::size_t kColumns>
HWY_INLINE void sums_of(const std::int8_t* const (&rows)[kRows], std::size_t columns, const std::int16_t* queries,
                        std::size_t stride, std::int32_t* sums, std::size_t sums_stride) {
  const D16 d16;
  const D32 d32;
  const hn::Rebind<std::int8_t, D16> d8;
  hn::Vec<D32> sum[kQueries][kRows];
  CAAN_UNROLL
  for (std::size_t k = 0; k < kQueries; ++k) {
    CAAN_UNROLL
    for (std::size_t i = 0; i < kRows; ++i) sum[k][i] = hn::Zero(d32);
  }
  const auto add = [&](std::size_t j, const auto& load) HWY_ATTR {
    CAAN_UNROLL
    for (std::size_t i = 0; i < kRows; ++i) {
      const auto row = hn::PromoteTo(d16, load(rows[i] + j));
      CAAN_UNROLL
      for (std::size_t k = 0; k < kQueries; ++k) {
        const auto query = hn::Load(d16, queries + k * stride + j);
        sum[k][i] = hn::Add(sum[k][i], hn::WidenMulPairwiseAdd(d32, row, query));
      }
    }
  };
  const auto whole = [&](const std::int8_t* at) HWY_ATTR { return hn::LoadU(d8, at); };
  if constexpr (kColumns > 0) {
    static_assert(kColumns % kQueryPadding == 0, "no tail");
    CAAN_UNROLL
    for (std::size_t j = 0; j < kColumns; j += hn::Lanes(d16)) add(j, whole);
  } else {
    std::size_t j = 0;
    for (; j + hn::Lanes(d16) <= columns; j += hn::Lanes(d16)) add(j, whole);
    if (j < columns) add(j, [&](const std::int8_t* at) HWY_ATTR { return hn::LoadN(d8, at, columns - j); });
  }
  CAAN_UNROLL
  for (std::size_t k = 0; k < kQueries; ++k) {
    store_sums(d32, sum[k][0], sum[k][1], sum[k][2], sum[k][3], sums + k * sums_stride);
  }
}

/// Appends those above the threshold. `sums` end with kNoSum up to a whole vector.
HWY_INLINE void select(const std::int32_t* sums, std::size_t rows, std::uint32_t first, Best& best) {
  const D32 d;
  const std::size_t lanes = hn::Lanes(d);
  auto threshold = hn::Set(d, best.threshold);
  for (std::size_t i = 0; i < rows; i += lanes) {
    const auto above = hn::Gt(hn::Load(d, sums + i), threshold);
    if (HWY_LIKELY(hn::AllFalse(d, above))) continue;
    if (best.size + lanes > best.capacity) {
      best.prune();
      threshold = hn::Set(d, best.threshold);
    }
    for (std::size_t k = i; k < i + lanes; ++k) {
      best.keys[best.size] = Best::key(sums[k], first + static_cast<std::uint32_t>(k));
      best.size += sums[k] > best.threshold;
    }
  }
}

template <std::size_t kQueries, std::size_t kColumns>
HWY_INLINE void scan_step(const std::int8_t* sketches, std::size_t rows, std::size_t any_columns,
                          const std::int16_t* queries, std::size_t stride, const std::uint8_t* skip,
                          std::uint32_t first, Best* best) {
  constexpr std::size_t kPadded = kStepRows + 16;
  HWY_ALIGN std::int32_t sums[kQueries * kPadded];
  const std::size_t columns = kColumns > 0 ? kColumns : any_columns;
  std::size_t i = 0;
  for (; i + kRows <= rows; i += kRows) {
    const std::int8_t* at = sketches + i * columns;
    // The processor's own prefetching rests while the sums are compared.
    for (std::size_t j = 0; j < kRows * columns; j += kAlignment) hwy::Prefetch(at + kStepBytes + j);
    sums_of<kQueries, kColumns>({at, at + columns, at + 2 * columns, at + 3 * columns}, columns, queries, stride,
                                sums + i, kPadded);
  }
  if (i < rows) {
    const auto row = [&](std::size_t k) { return sketches + HWY_MIN(i + k, rows - 1) * columns; };
    sums_of<kQueries, kColumns>({row(0), row(1), row(2), row(3)}, columns, queries, stride, sums + i, kPadded);
  }
  for (std::size_t k = 0; k < kQueries; ++k) {
    std::int32_t* own = sums + k * kPadded;
    if (skip != nullptr) {
      for (i = 0; i < rows; ++i) own[i] = skip[i] != 0 ? kNoSum : own[i];
    }
    hn::StoreU(hn::Set(D32(), kNoSum), D32(), own + rows);
    select(own, rows, first, best[k]);
  }
}

template <std::size_t kColumns>
HWY_INLINE void scan_columns(const std::int8_t* sketches, std::size_t rows, std::size_t columns,
                             const std::int16_t* queries, std::size_t number, const std::uint8_t* skip,
                             std::uint32_t first, Best* best) {
  const std::size_t stride = (columns + kQueryPadding - 1) / kQueryPadding * kQueryPadding;
  const std::size_t step = kStepBytes / columns;
  for (std::size_t i = 0; i < rows; i += step) {
    const auto index = first + static_cast<std::uint32_t>(i);
    const std::uint8_t* skipped = skip != nullptr ? skip + i : nullptr;
    const std::size_t these = HWY_MIN(step, rows - i);
    const std::int8_t* at = sketches + i * columns;
    std::size_t k = 0;
    for (; k + 2 <= number; k += 2) {
      scan_step<2, kColumns>(at, these, columns, queries + k * stride, stride, skipped, index, best + k);
    }
    if (k < number) {
      scan_step<1, kColumns>(at, these, columns, queries + k * stride, stride, skipped, index, best + k);
    }
  }
}

void scan(const std::int8_t* sketches, std::size_t rows, std::size_t columns, const std::int16_t* queries,
          std::size_t number, const std::uint8_t* skip, std::uint32_t first, Best* best) {
  constexpr std::size_t kUsual = 64;
  if (columns == kUsual) return scan_columns<kUsual>(sketches, rows, columns, queries, number, skip, first, best);
  scan_columns<0>(sketches, rows, columns, queries, number, skip, first, best);
}

Scan choose_scan() { return scan; }

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace caan::kernels {
HWY_EXPORT(choose_scan);

Scan find_scan() { return HWY_DYNAMIC_DISPATCH(choose_scan)(); }

}  // namespace caan::kernels
#endif
