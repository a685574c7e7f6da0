#!/usr/bin/env bash
# Builds Highway, the SIMD library used by cpp/kernels, into DEST: static, position-independent, from Debian trixie's source
# package, which is Highway's unmodified release. Not needed if libhwy-dev 1.2 or newer is installed; Debian bookworm and
# Ubuntu 22.04 have an older one. CMake and Ninja must be on the PATH.
#
# Usage: get_highway.sh DEST
set -euo pipefail

dest=${1:?usage: get_highway.sh DEST}
. "$(dirname "$0")/trixie_apt.sh"

# The same archive as cpp/kernels/CMakeLists.txt would download.
archive=highway_1.2.0.orig.tar.gz
sha256=7e0be78b8318e8bdbf6fa545d2ecb4c90f947df03f7aadc42c1967f019e63343

command -v apt-get >/dev/null || { echo "this machine has no apt; install Highway 1.2 or newer yourself" >&2; exit 4; }
private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
trixie_apt "$private" deb-src source --download-only highway
echo "$sha256  $private/$archive" | sha256sum --check --quiet
tar -C "$private" -xzf "$private/$archive"

mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
cmake --log-level=WARNING -Wno-dev -G Ninja -S "$private/highway-1.2.0" -B "$private/build" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_INSTALL_PREFIX="$dest" -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
    -DBUILD_SHARED_LIBS=OFF -DBUILD_TESTING=OFF -DHWY_ENABLE_TESTS=OFF -DHWY_ENABLE_EXAMPLES=OFF \
    -DHWY_ENABLE_CONTRIB=OFF
cmake --build "$private/build" --target hwy -- --quiet
cmake --install "$private/build" >/dev/null
echo "$dest"
