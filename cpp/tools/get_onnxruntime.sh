#!/usr/bin/env bash
# Puts what a C++ build needs of ONNX Runtime into DEST: DEST/include with the headers of Debian trixie's
# libonnxruntime-dev, DEST/lib with links to the library of the installed Python package onnxruntime. No registry has
# ONNX Runtime's release archive; its C API is versioned, so these headers work with any newer library.
#
# Usage: get_onnxruntime.sh DEST [PYTHON]      PYTHON: the interpreter that has onnxruntime, python3 by default
set -euo pipefail

dest=${1:?usage: get_onnxruntime.sh DEST [PYTHON]}
python=${2:-python3}
mkdir -p "$dest/lib"
dest=$(cd "$dest" && pwd)

# Debian's address and key as this machine's apt knows them, in either of its two formats.
debian_source() {
    local uri
    # Some of these files exist; that others don't is no error.
    uri=$( (cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null ||
        true) | grep -v '^[[:space:]]*#' | grep -oE '[a-z]+(\+[a-z]+)?:[^ ]*/debian/?( |$)' | sed -n '1s/ *$//p' || true)
    [ -n "$uri" ] || { echo "apt has no source of Debian packages; add one to /etc/apt/sources.list.d" >&2; return 4; }
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main"
}

if [ ! -d "$dest/include" ]; then
    # A private apt: the machine's own lists, and what it would upgrade to, stay as they are.
    private=$(mktemp -d)
    trap 'rm -rf "$private"' EXIT
    mkdir -p "$private/lists/partial" "$private/cache/archives/partial" "$private/extract"
    debian_source > "$private/sources.list"
    settings=(-o "Dir::Etc::sourcelist=$private/sources.list" -o "Dir::Etc::sourceparts=/dev/null"
        -o "Dir::State::lists=$private/lists" -o "Dir::Cache=$private/cache" -o "APT::Sandbox::User=")
    apt-get "${settings[@]}" -qq update
    (cd "$private" && apt-get "${settings[@]}" -qq download libonnxruntime-dev)
    dpkg -x "$private"/libonnxruntime-dev_*.deb "$private/extract"
    # Debian keeps them in include/onnxruntime, some versions one folder deeper.
    header=$(find "$private/extract" -name onnxruntime_cxx_api.h | head -n 1)
    mv "$(dirname "$header")" "$dest/include"
fi

library=$("$python" - <<'PYTHON'
import pathlib, importlib.util
spec = importlib.util.find_spec("onnxruntime")
if spec is None or spec.origin is None:
    raise SystemExit("this Python has no onnxruntime; pip install 'caan-deploy[cpu]'")
print(next((pathlib.Path(spec.origin).parent / "capi").glob("libonnxruntime.so.1.*")).resolve())
PYTHON
)
ln -sfn "$library" "$dest/lib/libonnxruntime.so"
ln -sfn "$library" "$dest/lib/libonnxruntime.so.1"
# Found beside the library that asks for them: the providers' part of the same package.
for provider in "$(dirname "$library")"/libonnxruntime_providers_*.so; do
    [ -e "$provider" ] && ln -sfn "$provider" "$dest/lib/$(basename "$provider")"
done
echo "$dest"
