#include "cgroups.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

namespace caan::detail {
namespace {

std::string text_of(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);) {
        parts.push_back(part);
    }
    return parts;
}

bool contains(const std::vector<std::string>& all, const std::string& one) {
    return std::find(all.begin(), all.end(), one) != all.end();
}

/// Undoes mountinfo's escapes, as \040 for a space.
std::string unescaped(const std::string& field) {
    std::string name;
    for (std::size_t i = 0; i < field.size(); ++i) {
        if (field[i] == '\\' && field.find_first_not_of("01234567", i + 1) >= i + 4 && i + 3 < field.size()) {
            name += static_cast<char>(std::stoi(field.substr(i + 1, 3), nullptr, 8));
            i += 3;
        } else {
            name += field[i];
        }
    }
    return name;
}

/// The path of this process's group in a hierarchy, from /proc/self/cgroup: 4:cpu,cpuacct:/docker/…, or 0::/…
std::string own_path(const std::string& proc, const std::string& controller) {
    for (const std::string& line : split(text_of(proc + "/cgroup"), '\n')) {
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) {
            continue;
        }
        const std::string controllers = line.substr(first + 1, second - first - 1);
        if (controller.empty() ? controllers.empty() && line.substr(0, first) == "0"
                               : contains(split(controllers, ','), controller)) {
            return line.substr(second + 1);
        }
    }
    return "/";
}

std::optional<double> quota_of(const std::string& group) {
    std::istringstream words(text_of(group + "/cpu.max"));
    long long quota = 0, period = 0;
    if (!(words >> quota >> period)) { // "max": no limit, or not version 2
        std::istringstream first(text_of(group + "/cpu.cfs_quota_us")), second(text_of(group + "/cpu.cfs_period_us"));
        if (!(first >> quota) || !(second >> period)) {
            return std::nullopt;
        }
    }
    if (quota <= 0 || period <= 0) {
        return std::nullopt;
    }
    return static_cast<double>(quota) / static_cast<double>(period);
}

/// The limit of a group and its ancestors, up to the mount point. A container may see its own group as the root.
std::optional<double> smallest_quota(const std::string& mount, const std::string& root, std::string path) {
    if (root != "/" && (path == root || path.rfind(root + "/", 0) == 0)) {
        path.erase(0, root.size());
    }
    std::vector<std::string> folders{mount};
    for (const std::string& part : split(path, '/')) {
        if (!part.empty() && part != "..") {
            folders.push_back(folders.back() + "/" + part);
        }
    }
    std::optional<double> smallest;
    for (const std::string& folder : folders) {
        const std::optional<double> quota = quota_of(folder);
        if (quota && (!smallest || *quota < *smallest)) {
            smallest = quota;
        }
    }
    return smallest;
}

} // namespace

std::optional<double> cpu_quota(const std::string& proc) {
    std::optional<double> smallest;
    for (const std::string& line : split(text_of(proc + "/mountinfo"), '\n')) {
        // 32 31 0:29 ROOT MOUNT rw,relatime … - cgroup cgroup rw,cpu
        const std::size_t middle = line.find(" - ");
        if (middle == std::string::npos) {
            continue;
        }
        const std::vector<std::string> fields = split(line.substr(0, middle), ' ');
        const std::vector<std::string> after = split(line.substr(middle + 3), ' ');
        if (fields.size() < 5 || after.empty() || (after[0] != "cgroup" && after[0] != "cgroup2")) {
            continue;
        }
        const std::string controller = after[0] == "cgroup" ? "cpu" : "";
        if (!controller.empty() && !contains(split(after.back(), ','), controller)) {
            continue;
        }
        const std::optional<double> quota =
            smallest_quota(unescaped(fields[4]), unescaped(fields[3]), own_path(proc, controller));
        if (quota && (!smallest || *quota < *smallest)) {
            smallest = quota;
        }
    }
    return smallest;
}

} // namespace caan::detail
