/// What this machine is.
#pragma once

namespace caan::detail {

/// Threads of one scorer call: OMP_NUM_THREADS where it is set, else all cores this process may use.
int default_threads();

/// Its number: another in a process that was forked since.
long this_process();

/// Give memory that was freed back to the system, where the C library keeps it.
void release_freed_memory();

/// Whether NVIDIA's driver library can be loaded.
bool has_nvidia_driver();

} // namespace caan::detail
