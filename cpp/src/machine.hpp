/// What this machine is.
#pragma once

namespace caan::detail {

/// Threads of one scorer call: as many as asked for, if it is not 0; else OMP_NUM_THREADS, as numeric programs agree;
/// else all cores that this process may use. Throws InputError for a number that is not from 1 to 1024.
int chosen_threads(int threads = 0);

/// Its number: another in a process that was forked since.
long this_process();

/// Give memory that was freed back to the system, where the C library keeps it.
void release_freed_memory();

/// Whether NVIDIA's driver library can be loaded.
bool has_nvidia_driver();

} // namespace caan::detail
