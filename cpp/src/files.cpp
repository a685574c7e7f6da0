#include "files.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.hpp"

namespace caan::detail {
namespace {

[[noreturn]] void fail() { throw std::system_error(errno, std::generic_category()); }

/// Not a regular file: reading a pipe or device could block forever or never end.
class NotRegular : public std::error_category {
public:
    const char* name() const noexcept override { return "caan"; }
    std::string message(int) const override { return "it is a pipe or device, not a file"; }
};

class OpenFile {
public:
    /// A regular file, or a link to one.
    explicit OpenFile(const std::string& path) {
        // Checked before opening, which affects some devices, and after, since it may have been replaced.
        struct stat status {};
        if (::stat(path.c_str(), &status) != 0) {
            fail();
        }
        check(status);
        handle_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (handle_ < 0) {
            fail();
        }
        try {
            check(this->status());
        } catch (const std::system_error&) {
            ::close(handle_);
            throw;
        }
    }
    ~OpenFile() {
        if (handle_ >= 0) {
            ::close(handle_);
        }
    }
    OpenFile(const OpenFile&) = delete;
    OpenFile& operator=(const OpenFile&) = delete;

    std::size_t size() const { return static_cast<std::size_t>(status().st_size); }

    /// Up to this many bytes; 0 at the end.
    std::size_t read(void* target, std::size_t bytes) const {
        ssize_t got = 0;
        do {
            got = ::read(handle_, target, bytes);
        } while (got < 0 && errno == EINTR);
        if (got < 0) {
            fail();
        }
        return static_cast<std::size_t>(got);
    }

    int handle() const noexcept { return handle_; }
    int release() noexcept { return std::exchange(handle_, -1); }

private:
    struct stat status() const {
        struct stat status {};
        if (::fstat(handle_, &status) != 0) {
            fail();
        }
        return status;
    }

    static void check(const struct stat& status) {
        static const NotRegular not_regular;
        if (S_ISDIR(status.st_mode)) {
            throw std::system_error(EISDIR, std::generic_category());
        }
        if (!S_ISREG(status.st_mode)) {
            throw std::system_error(EINVAL, not_regular);
        }
    }

    int handle_ = -1;
};

class Sha256 {
public:
    Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
        check(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
    }

    void add(const void* data, std::size_t bytes) { check(EVP_DigestUpdate(context_.get(), data, bytes) == 1); }

    std::string hexadecimal() {
        std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
        unsigned size = 0;
        check(EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1);
        std::string text;
        for (unsigned i = 0; i < size; ++i) {
            text += "0123456789abcdef"[digest[i] >> 4];
            text += "0123456789abcdef"[digest[i] & 15];
        }
        return text;
    }

private:
    static void check(bool done) {
        if (!done) {
            throw std::runtime_error("OpenSSL can't compute SHA-256; see its configuration");
        }
    }

    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

} // namespace

std::string read_file(const std::string& path, std::size_t limit) {
    const OpenFile file(path);
    std::string content;
    // A file may grow: the size is only a first guess.
    content.resize(std::min(limit, file.size() + 1));
    std::size_t filled = 0;
    while (filled < content.size()) {
        const std::size_t got = file.read(content.data() + filled, content.size() - filled);
        if (got == 0) {
            break;
        }
        filled += got;
        if (filled == content.size() && filled < limit) {
            content.resize(std::min(limit, 2 * filled));
        }
    }
    content.resize(filled);
    return content;
}

std::string reason(const std::system_error& error) {
    const bool is_own = error.code().category() != std::generic_category();
    return is_own ? error.code().message() : std::strerror(error.code().value());
}

std::string os_error(const std::system_error& error, const std::string& path) {
    return "[Errno " + std::to_string(error.code().value()) + "] " + reason(error) + ": '" + path + "'";
}

bool is_file(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

std::vector<std::int64_t> stamp_of(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) {
        return {};
    }
#ifdef __APPLE__
    const timespec& changed = status.st_mtimespec;
#else
    const timespec& changed = status.st_mtim;
#endif
    return {static_cast<std::int64_t>(status.st_ino), changed.tv_sec, changed.tv_nsec};
}

std::string sha256_of_file(const std::string& path) {
    const OpenFile file(path);
    Sha256 hash;
    std::vector<char> part(std::size_t{1} << 20);
    while (const std::size_t got = file.read(part.data(), part.size())) {
        hash.add(part.data(), got);
    }
    return hash.hexadecimal();
}

std::string sha256_of(const void* data, std::size_t bytes) {
    Sha256 hash;
    hash.add(data, bytes);
    return hash.hexadecimal();
}

MappedFile::MappedFile(const std::string& path) {
    OpenFile file(path);
    size_ = file.size();
    if (size_ > 0) { // an empty file can't be mapped
        void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.handle(), 0);
        if (mapped == MAP_FAILED) {
            fail();
        }
        data_ = static_cast<std::byte*>(mapped);
    }
    handle_ = file.release();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)),
      handle_(std::exchange(other.handle_, -1)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(handle_, other.handle_);
    return *this;
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) {
        ::munmap(data_, size_);
    }
    if (handle_ >= 0) {
        ::close(handle_);
    }
}

FileStatus MappedFile::status() const {
    struct stat status {};
    if (::fstat(handle_, &status) != 0) {
        fail();
    }
#ifdef __APPLE__
    const timespec &modified = status.st_mtimespec, &changed = status.st_ctimespec;
#else
    const timespec &modified = status.st_mtim, &changed = status.st_ctim;
#endif
    const auto nanoseconds = [](const timespec& time) {
        return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
    };
    return {static_cast<std::size_t>(status.st_size), nanoseconds(modified), nanoseconds(changed),
            static_cast<std::int64_t>(status.st_nlink)};
}

void MappedFile::fetch(const std::byte* at, std::size_t bytes) const noexcept {
    static const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t before = static_cast<std::size_t>(at - data_) % page; // mappings begin at a page
    (void)::madvise(const_cast<std::byte*>(at) - before, bytes + before, MADV_WILLNEED);
}

std::size_t read_into(const std::string& path, std::byte* target, std::size_t bytes) {
    const OpenFile file(path);
    std::size_t filled = 0;
    while (filled < bytes) {
        const std::size_t got = file.read(target + filled, bytes - filled);
        if (got == 0) {
            break;
        }
        filled += got;
    }
    return filled;
}

} // namespace caan::detail
