/// The CPU limit of Linux's control groups for this process, as set by a container's --cpus.
#pragma once

#include <optional>
#include <string>

namespace caan::detail {

/// CPUs allowed by this process's group and its ancestors: the smallest limit. None: no limit. `proc`: the process's
/// folder in /proc, which names its groups.
std::optional<double> cpu_quota(const std::string& proc = "/proc/self");

} // namespace caan::detail
