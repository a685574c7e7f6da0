#!/usr/bin/env bash
# Builds caan-native's sdist with PYTHON, and from it a wheel for Python 3.11 and one for the stable ABI, which works with
# 3.12 and later, whichever of them builds it.
#
# Usage: build_wheels.sh PYTHON HIGHWAY_ROOT DIST, in the root of the repository; PYTHON has the package `build`
set -euo pipefail

python=${1:?usage: build_wheels.sh PYTHON HIGHWAY_ROOT DIST}
highway=${2:?usage: build_wheels.sh PYTHON HIGHWAY_ROOT DIST}
dist=${3:?usage: build_wheels.sh PYTHON HIGHWAY_ROOT DIST}
build=$PWD/cpp/build-dist

# The first Python of these versions with headers: on the PATH, or from pyenv.
find_python() {
    local version candidate
    for version in "$@"; do
        for candidate in "$(command -v "python$version" || true)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
            if [ -x "$candidate" ] && "$candidate" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null; then
                echo "$candidate"
                return
            fi
        done
    done
}

rm -rf "$build/sources" "$dist"/caan_native-*
mkdir -p "$build/sources" "$dist"
"$python" -m build --sdist --outdir "$dist" cpp/python
tar -C "$build/sources" --strip-components=1 -xzf "$dist"/caan_native-*.tar.gz

if [ ! -d "$highway/include" ] && ! pkg-config --atleast-version=1.2 libhwy 2>/dev/null; then
    PATH=$(dirname "$python"):$PATH cpp/tools/get_highway.sh "$highway" >/dev/null || true
fi
define=(-C "build-dir=$build/{wheel_tag}")
[ ! -d "$highway/include" ] || define+=(-C "cmake.define.hwy_DIR=$(cd "$highway" && pwd)/lib/cmake/hwy")
if command -v ccache >/dev/null; then
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
fi

for wanted in "3.11" "3.12 3.13 3.14"; do
    # shellcheck disable=SC2086
    found=$(find_python $wanted)
    if [ -z "$found" ]; then
        echo "no wheel for Python ${wanted// / or }: none with headers is on the PATH or in pyenv" >&2
        continue
    fi
    # Older versions of pip read one variable, newer ones the other, for the packages of a build.
    PIP_CONSTRAINT=$PWD/constraints.txt PIP_BUILD_CONSTRAINT=$PWD/constraints.txt \
        "$found" -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir "$dist" "${define[@]}" "$build/sources"
done
