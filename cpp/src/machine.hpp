/// This machine's properties.
#pragma once

namespace caan::detail {

/// Threads of one scorer call: the given number unless 0; else OMP_NUM_THREADS, as is usual for numeric programs; else
/// all cores this process may use. Throws InputError for a number outside 1 to 1024.
int chosen_threads(int threads = 0);

/// The process's id: another one in a forked process.
long this_process();

/// Return freed memory to the system, if the C library keeps it.
void release_freed_memory();

/// Whether NVIDIA's driver library can be loaded.
bool has_nvidia_driver();

} // namespace caan::detail
