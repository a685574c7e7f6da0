/// Reading files, regular ones alone; an operating system's refusal is a std::system_error, printed as Python prints
/// OSError.
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

/// All bytes of a file, or the first `limit` of them. Throws std::system_error.
std::string read_file(const std::string& path, std::size_t limit = static_cast<std::size_t>(-1));

/// Why, as Python's `error.strerror`: "No such file or directory".
std::string reason(const std::system_error& error);

/// As Python prints the whole OSError: "[Errno 2] No such file or directory: 'path'".
std::string os_error(const std::system_error& error, const std::string& path);

/// Whether there is a file, or something that leads to one.
bool is_file(const std::string& path);

/// Which writing of a file this is, that is always replaced and never written to; empty if there is none.
std::vector<std::int64_t> stamp_of(const std::string& path);

/// Files that belong together are read again so often while they are being replaced, with a pause that grows.
inline constexpr int MOST_READS = 60, LONGEST_PAUSE_MS = 100;

/// What `read` makes of files that belong together; again, if `published`, which is replaced last, was meanwhile: they
/// may be of two writings. Throws what `read` throws of files that stay, and BundleError for files that never stay long
/// enough.
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

/// What a file is just now; a file that is written to in place changes its size or times.
struct FileStatus {
    std::size_t size = 0;
    std::int64_t modified = 0, changed = 0; // ns
    std::int64_t links = 0;

    /// Whether the content may be another. A name more or fewer is another file in the place of this one, or a backup:
    /// that changes the times too.
    bool is_written_since(const FileStatus& before) const noexcept {
        return size != before.size || modified != before.modified ||
               (changed != before.changed && links == before.links);
    }
};

/// A file's content, memory-mapped for reading. It stays mapped as long as the object lives.
///
/// Who shortens the file takes the memory away from whoever reads it: the system ends the process (SIGBUS). Look at its
/// status before and after every use.
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

private:
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
    int handle_ = -1;
};

/// The first `bytes` of a regular file. Throws std::system_error; gives fewer of a file that is shorter.
std::size_t read_into(const std::string& path, std::byte* target, std::size_t bytes);

} // namespace caan::detail
