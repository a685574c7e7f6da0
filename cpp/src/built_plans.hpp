/// Records of engine plans built here, in the format of engines/built_plans.py: a plan is a program.
#pragma once

#include <string>

namespace caan::detail {

/// Whether this user built the plan with this SHA-256, in hexadecimal, on this machine.
bool was_built_here(const std::string& sha256);

} // namespace caan::detail
