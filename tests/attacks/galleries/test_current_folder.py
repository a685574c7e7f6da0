"""Modules in the current folder with names that Python or caan imports: the bench's processes import none of them."""

import os
import subprocess
import sys

# Modules imported before a process has its parent's sys.path, and after.
NAMES = ["pickle", "random", "selectors", "signal", "socket", "struct", "tempfile", "numpy", "caan", "onnxruntime"]
BENCH = """
import sys
from pathlib import Path
from caan.bench.run import run_bench
if __name__ == "__main__":
    run_bench(Path(sys.argv[1]), rounds=1, threads=1, only=['onnxruntime fp32'])
    print("measured")
"""


def test_the_bench_in_a_folder_with_modules(tiny_folder, tmp_path):
    taken, here, script = tmp_path / "taken", tmp_path / "here", tmp_path / "script"
    for folder in (here, script):
        folder.mkdir()
    for name in NAMES:
        (here / f"{name}.py").write_text(
            f"open({str(tmp_path / 'taken')!r}, 'a').write('{name} ')\nraise SystemExit(9)"
        )
    (script / "bench.py").write_text(BENCH)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, script / "bench.py", tiny_folder / "model.caan"]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=300)
    assert not taken.exists(), taken.read_text()
    assert done.stdout == "measured\n", done
