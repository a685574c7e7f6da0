#!/usr/bin/env bash
# Builds caan-native (cpp/python) and installs it for PYTHON. Needs a C++ compiler and Python's headers; gets the rest
# itself, without root: the build's packages from constraints.txt, and Highway into HIGHWAY_ROOT.
#
# Usage: install_native.sh PYTHON HIGHWAY_ROOT, in the root of the repository
set -euo pipefail

python=${1:?usage: install_native.sh PYTHON HIGHWAY_ROOT}
highway=${2:?usage: install_native.sh PYTHON HIGHWAY_ROOT}
pip=("$python" -m pip --quiet --disable-pip-version-check)

refuse() {
    echo "caan-native: $1" >&2
    exit 4
}

command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null ||
    refuse "no C++ compiler; run: sudo apt-get install g++ (or name one: CXX=...)"
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$headers/Python.h" ] || refuse "no $headers/Python.h; run: sudo apt-get install python3-dev"

requires=$("$python" -c 'import tomllib
print(*tomllib.load(open("cpp/python/pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")')
mapfile -t packages <<< "$requires"
"${pip[@]}" install -c constraints.txt "${packages[@]}" cmake ninja ||
    refuse "pip got no ${packages[*]} cmake ninja; is there a way to a package index? (pip config list)"
# CMake and Ninja of these packages, for Highway too.
PATH=$(cd "$(dirname "$python")" && pwd):$PATH

define=(-C "build-dir=$PWD/cpp/build-python/{wheel_tag}")
if [ ! -d "$highway/include" ] && ! pkg-config --atleast-version=1.2 libhwy 2>/dev/null; then
    # If this fails, CMake searches and downloads itself, and says what to do if it can't.
    cpp/tools/get_highway.sh "$highway" >/dev/null || true
fi
[ ! -d "$highway/include" ] || define+=(-C "cmake.define.hwy_DIR=$(cd "$highway" && pwd)/lib/cmake/hwy")

"${pip[@]}" install -c constraints.txt --no-build-isolation "${define[@]}" ./cpp/python ||
    refuse "the build failed, for the reason above; when that is mended, run: make native"
"$python" -c 'import caan_native'
