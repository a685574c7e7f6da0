#!/usr/bin/env bash
# Installs what building, testing and fuzzing caan in C++ needs on Debian or Ubuntu; without root, says what is missing.
set -euo pipefail

install() {
    local package missing=()
    for package in "$@"; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true) in
            *" installed") ;;
            *) missing+=("$package") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "the C++ tests need packages that are not installed; run: sudo apt-get install ${missing[*]}" >&2
        exit 4
    fi
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
}

install catch2 clang clang-format clang-tidy cmake g++ libssl-dev ninja-build nlohmann-json3-dev pkg-config
# clang's sanitizers are a package of their own in some versions, named for the version.
fuzzer=$(clang -print-file-name=lib/linux/libclang_rt.fuzzer-"$(uname -m)".a)
[ -e "$fuzzer" ] || install "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
