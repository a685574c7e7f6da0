#include "machine.hpp"

#include <caan/caan.hpp>

#include "cgroups.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
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

// More threads than any machine has processors are a mistake, and would crash or freeze the machine.
constexpr int MOST_THREADS = 1024;

/// Processors this process may use, by its affinity and its control groups' limit, rounded up.
int cores() {
    int count = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#ifdef __linux__
    cpu_set_t usable;
    if (::sched_getaffinity(0, sizeof usable, &usable) == 0) {
        count = CPU_COUNT(&usable);
    }
#endif
    const std::optional<double> quota = cpu_quota();
    return quota ? static_cast<int>(std::clamp(std::ceil(*quota), 1.0, static_cast<double>(count))) : count;
}

std::string stripped(const std::string& text) {
    const char* const spaces = " \t\r\n";
    const std::size_t first = text.find_first_not_of(spaces);
    return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(spaces) - first + 1);
}

/// 0 for anything but a number of threads.
int number_of(const std::string& text) {
    const bool is_number =
        !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos;
    const int number = is_number ? std::stoi(text) : 0;
    return number <= MOST_THREADS ? number : 0;
}

} // namespace

int chosen_threads(int threads) {
    const std::string range = " from 1 to " + std::to_string(MOST_THREADS);
    if (threads != 0) {
        if (threads < 0 || threads > MOST_THREADS) {
            throw InputError("threads must be" + range + ", not " + std::to_string(threads));
        }
        return threads;
    }
    const char* variable = std::getenv("OMP_NUM_THREADS");
    const std::string named = stripped(variable == nullptr ? "" : variable);
    if (named.empty()) {
        return cores();
    }
    // OpenMP's list has a number for each nesting level; only the first matters here.
    int first = 0;
    for (std::size_t start = 0; start <= named.size();) {
        const std::size_t end = std::min(named.find(',', start), named.size());
        const int number = number_of(stripped(named.substr(start, end - start)));
        if (number == 0) {
            throw InputError("OMP_NUM_THREADS is '" + named.substr(0, 50) + "', not a number of threads" + range +
                             "; set it to one, or unset it");
        }
        first = first == 0 ? number : first;
        start = end + 1;
    }
    return first;
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
