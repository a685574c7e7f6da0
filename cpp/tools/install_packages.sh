#!/usr/bin/env bash
# Installs the packages needed on Debian or Ubuntu to build and test, fuzz, or lint caan in C++; without root, lists the
# missing ones.
#
# Usage: install_packages.sh build|fuzz|lint...
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
        echo "C++ needs packages that are not installed; run: sudo apt-get install ${missing[*]}" >&2
        exit 4
    fi
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
}

[ $# -gt 0 ] || { echo "usage: install_packages.sh build|fuzz|lint..." >&2; exit 2; }
for purpose in "$@"; do
    case $purpose in
        build) install catch2 ccache cmake g++ libssl-dev make ninja-build nlohmann-json3-dev pkg-config util-linux ;;
        lint) install clang-format clang-tidy ;;
        fuzz)
            install clang
            # In some versions clang's sanitizers are a separate package, named for the version.
            fuzzer=$(clang -print-file-name=lib/linux/libclang_rt.fuzzer-"$(uname -m)".a)
            [ -e "$fuzzer" ] || install "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
            ;;
        *) echo "unknown purpose '$purpose'; known: build, fuzz, lint" >&2; exit 2 ;;
    esac
done
