#!/usr/bin/env bash
# Puts ONNX Runtime's SDK into DEST: DEST/include with the headers of Debian trixie's libonnxruntime-dev, DEST/lib with
# links to the library of the installed Python package onnxruntime. Package registries don't have ONNX Runtime's release
# archive. Its C API is versioned, so these headers work with any newer library.
#
# Usage: get_onnxruntime.sh DEST [PYTHON]      PYTHON: the interpreter that has onnxruntime, python3 by default
set -euo pipefail

dest=${1:?usage: get_onnxruntime.sh DEST [PYTHON]}
python=${2:-python3}
. "$(dirname "$0")/trixie_apt.sh"
mkdir -p "$dest/lib"
dest=$(cd "$dest" && pwd)

if [ ! -d "$dest/include" ]; then
    private=$(mktemp -d)
    trap 'rm -rf "$private"' EXIT
    trixie_apt "$private" deb download libonnxruntime-dev
    dpkg -x "$private"/libonnxruntime-dev_*.deb "$private/extract"
    # Debian has them in include/onnxruntime, some versions one folder deeper.
    header=$(find "$private/extract" -name onnxruntime_cxx_api.h | head -n 1)
    mv "$(dirname "$header")" "$dest/include"
fi

library=$("$python" - <<'PYTHON'
import pathlib, importlib.util
spec = importlib.util.find_spec("onnxruntime")
if spec is None or spec.origin is None:
    raise SystemExit("this Python has no onnxruntime; in a checkout of caan: pip install '.[cpu]'")
print(next((pathlib.Path(spec.origin).parent / "capi").glob("libonnxruntime.so.1.*")).resolve())
PYTHON
)
ln -sfn "$library" "$dest/lib/libonnxruntime.so"
ln -sfn "$library" "$dest/lib/libonnxruntime.so.1"
# The same package's providers, which the library loads from its own folder.
for provider in "$(dirname "$library")"/libonnxruntime_providers_*.so; do
    [ -e "$provider" ] && ln -sfn "$provider" "$dest/lib/$(basename "$provider")"
done
echo "$dest"
