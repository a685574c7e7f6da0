#include "machine.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <thread>

#include <dlfcn.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

namespace caan::detail {
namespace {

int cores() {
#ifdef __linux__
    cpu_set_t usable;
    if (::sched_getaffinity(0, sizeof usable, &usable) == 0) {
        return CPU_COUNT(&usable);
    }
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

} // namespace

int default_threads() {
    const char* named = std::getenv("OMP_NUM_THREADS");
    const std::string text = named == nullptr ? "" : named;
    const bool is_number =
        !text.empty() && text.size() < 6 && text.find_first_not_of("0123456789") == std::string::npos;
    const int threads = is_number ? std::stoi(text) : 0;
    return threads > 0 ? threads : cores();
}

long this_process() { return ::getpid(); }

void release_freed_memory() {
#ifdef __GLIBC__
    ::malloc_trim(0);
#endif
}

bool has_nvidia_driver() {
    void* library = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (library == nullptr) {
        return false;
    }
    ::dlclose(library);
    return true;
}

} // namespace caan::detail
