/// Reading regular files. Operating system errors are std::system_error, printed as Python prints OSError.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <caan/caan.hpp>

namespace caan::detail {

/// All bytes of a file, or its first `limit`. Throws std::system_error.
std::string read_file(const std::string& path, std::size_t limit = static_cast<std::size_t>(-1));

/// The reason, as Python's `error.strerror`: "No such file or directory".
std::string reason(const std::system_error& error);

/// As Python prints the whole OSError: "[Errno 2] No such file or directory: 'path'".
std::string os_error(const std::system_error& error, const std::string& path);

/// Whether there is a file or link of this name.
bool is_file(const std::string& path);

/// Identifies a version of a file that is always replaced, never written in place; empty if there is none.
std::vector<std::int64_t> stamp_of(const std::string& path);

/// Number of attempts to read files that are being replaced, with growing pauses.
inline constexpr int MOST_READS = 60, LONGEST_PAUSE_MS = 100;

/// The result of `read` for files of one version: repeats if `published`, the file replaced last, was replaced
/// meanwhile. Throws what `read` throws for unchanged files, and BundleError if the files keep changing.
template <typename Read> auto read_consistently(const std::string& published, const Read& read) {
    for (int attempt = 0; attempt < MOST_READS; ++attempt) {
        const std::vector<std::int64_t> stamp = stamp_of(published);
        try {
            auto result = read();
            if (stamp_of(published) == stamp) {
                return result;
            }
        } catch (const InputError&) {
            if (stamp_of(published) == stamp) {
                throw;
            }
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(std::min(LONGEST_PAUSE_MS, attempt)));
    }
    throw BundleError(published + " was replaced each of " + std::to_string(MOST_READS) +
                      " times that its files were read; try again when that is over");
}

/// A file's SHA-256 in hexadecimal. Throws std::system_error.
std::string sha256_of_file(const std::string& path);

/// SHA-256 in hexadecimal.
std::string sha256_of(const void* data, std::size_t bytes);

/// A file's current status; writing to a file in place changes its size or times.
struct FileStatus {
    std::size_t size = 0;
    std::int64_t modified = 0, changed = 0; // ns
    std::int64_t links = 0;

    /// Whether the content may have changed. A change in the number of links alone (the name was replaced, or a backup
    /// linked the file) also sets `changed` and does not count.
    bool is_written_since(const FileStatus& before) const noexcept {
        return size != before.size || modified != before.modified ||
               (changed != before.changed && links == before.links);
    }
};

/// A file's content, memory-mapped for reading as long as the object lives.
///
/// If the file is truncated, reading the lost part ends the process (SIGBUS). Check its status before and after every
/// use.
class MappedFile {
public:
    MappedFile() = default;
    /// Throws std::system_error.
    explicit MappedFile(const std::string& path);
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;
    ~MappedFile();

    const std::byte* data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    /// Throws std::system_error.
    FileStatus status() const;
    /// Start reading these bytes of it from the disk, without waiting.
    void fetch(const std::byte* at, std::size_t bytes) const noexcept;

private:
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
    int handle_ = -1;
};

/// The first `bytes` of a regular file, or all of a shorter one. Throws std::system_error.
std::size_t read_into(const std::string& path, std::byte* target, std::size_t bytes);

} // namespace caan::detail
