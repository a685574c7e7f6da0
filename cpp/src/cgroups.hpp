/// How much of the processors Linux's control groups give this process, as a container's --cpus sets it.
#pragma once

#include <optional>
#include <string>

namespace caan::detail {

/// Processors' worth of time: of this process's group and those around it, the smallest. None: all that there are.
/// `proc`: the process's folder, which says where its groups are.
std::optional<double> cpu_quota(const std::string& proc = "/proc/self");

} // namespace caan::detail
