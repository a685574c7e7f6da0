#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include <unistd.h>

#include "cgroups.hpp"
#include "helpers.hpp"
#include "machine.hpp"

namespace fs = std::filesystem;
using caan::detail::chosen_threads;
using caan::detail::cpu_quota;

namespace {

/// A process's folder in /proc, for a process in the group `path` of a hierarchy mounted from `root`.
class Machine {
public:
    Machine(const std::string& kind, const std::string& root, const std::string& path)
        : folder_(fs::temp_directory_path() / ("caan groups " + std::to_string(::getpid()))) {
        fs::create_directories(groups());
        std::string escaped = groups().string();
        for (std::size_t i = 0; (i = escaped.find(' ', i)) != std::string::npos;) {
            escaped.replace(i, 1, "\\040");
        }
        const bool second = kind == "cgroup2";
        write("mountinfo", "22 1 0:20 / /proc rw - proc proc rw\n32 31 0:29 " + root + " " + escaped +
                               " rw,relatime shared:9 - " + kind + (second ? " cgroup2 rw\n" : " cgroup rw,cpu,cpuacct\n"));
        write("cgroup", second ? "0::" + path + "\n" : "5:memory:/other\n4:cpu,cpuacct:" + path + "\n0::/\n");
    }
    ~Machine() { fs::remove_all(folder_); }
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;

    void write(const std::string& name, const std::string& content) const {
        fs::create_directories((folder_ / name).parent_path());
        std::ofstream(folder_ / name) << content;
    }
    std::optional<double> quota() const { return cpu_quota(folder_.string()); }

private:
    fs::path groups() const { return folder_ / "groups"; }
    fs::path folder_;
};

class Variable {
public:
    explicit Variable(const char* value) {
        const char* old = std::getenv("OMP_NUM_THREADS");
        old_ = old == nullptr ? std::optional<std::string>() : old;
        value == nullptr ? ::unsetenv("OMP_NUM_THREADS") : ::setenv("OMP_NUM_THREADS", value, 1);
    }
    ~Variable() { old_ ? ::setenv("OMP_NUM_THREADS", old_->c_str(), 1) : ::unsetenv("OMP_NUM_THREADS"); }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;

private:
    std::optional<std::string> old_;
};

} // namespace

TEST_CASE("the smallest quota of a group and its ancestors counts, in both versions of control groups") {
    SECTION("version 1") {
        const Machine machine("cgroup", "/", "/a/b");
        machine.write("groups/cpu.cfs_quota_us", "-1\n");
        machine.write("groups/cpu.cfs_period_us", "100000\n");
        CHECK(!machine.quota());
        machine.write("groups/a/cpu.cfs_quota_us", "150000\n");
        machine.write("groups/a/cpu.cfs_period_us", "100000\n");
        machine.write("groups/a/b/cpu.cfs_quota_us", "400000\n");
        machine.write("groups/a/b/cpu.cfs_period_us", "100000\n");
        CHECK(machine.quota() == 1.5);
    }
    SECTION("version 2") {
        const Machine machine("cgroup2", "/", "/a");
        machine.write("groups/a/cpu.max", "max 100000\n");
        CHECK(!machine.quota());
        machine.write("groups/a/cpu.max", "20000 100000\n");
        CHECK(machine.quota() == 0.2);
    }
    SECTION("a container whose root is its own group") {
        const Machine machine("cgroup", "/docker/1", "/docker/1");
        machine.write("groups/cpu.cfs_quota_us", "200000\n");
        machine.write("groups/cpu.cfs_period_us", "100000\n");
        CHECK(machine.quota() == 2.0);
    }
    SECTION("damaged files") {
        const Machine machine("cgroup2", "/", "/../..");
        machine.write("groups/cpu.max", "many 0\n");
        CHECK(!machine.quota());
    }
    CHECK(!cpu_quota("/nowhere"));
}

TEST_CASE("threads are the given number, else OMP_NUM_THREADS, else the cores") {
    const Variable unset(nullptr);
    CHECK(chosen_threads() >= 1);
    CHECK(chosen_threads(7) == 7);
    CHECK_THROWS_AS(chosen_threads(1025), caan::InputError);
    CHECK_THROWS_AS(chosen_threads(-1), caan::InputError);
    for (const auto& [value, threads] : {std::pair{"3", 3}, {" 3 ", 3}, {"4,2", 4}, {"1024", 1024}}) {
        const Variable set(value);
        CHECK(chosen_threads() == threads);
        CHECK(chosen_threads(2) == 2);
    }
    for (const char* value : {"0", "-1", "\u00B2", "1e3", "1025", "99999999999999999999", "two", "4,", ",", "4,x"}) {
        const Variable set(value);
        CHECK_THROWS_AS(chosen_threads(), caan::InputError);
    }
}
