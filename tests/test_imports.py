"""Who may import whom, and what the light entry points pull in."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

# What the runtime loads; msgspec takes typing_extensions where it is.
RUNTIME = {"caan", "msgspec", "numpy", "typing_extensions"}
ROOT = Path(__file__).parents[1]
# Not part of the package.
OUTSIDE = {"tests", "cpp", "examples", "docs", "build", ".venv", "setup.py"}
TENSORRT = {"tensorrt", "tensorrt_rtx"}
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "triton",
    "PIL",
    "matplotlib",
    "cuda",
    "prometheus_client",
    "jinja2",
    "pynvml",
    *TENSORRT,
}
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] not in OUTSIDE]


def loaded_by(code, *, argv=("caan",)):
    """The top-level packages that a fresh interpreter has loaded after this code."""
    program = f"import sys, json; sys.argv = {list(argv)!r}\ntry:\n    exec({code!r})\nexcept SystemExit:\n    pass\n"
    program += "print('LOADED', json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(done.stdout.rpartition("LOADED ")[2]))


def test_the_contracts_hold():
    """Layers, circles and forbidden packages, as pyproject.toml declares them."""
    # In a process of its own: it configures logging anew, which silences this one's loggers.
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(cache_dir=None))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_imports_inside_the_package_are_relative():
    absolute = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "caan")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "caan" for alias in node.names))
    ]
    assert absolute == []


def test_importing_caan_loads_nothing_else():
    assert loaded_by("import caan") - sys.stdlib_module_names - loaded_by("pass") == {"caan"}


def test_the_interface_imports_from_caan_itself_and_loads_the_runtime_when_used():
    code = "import caan\nassert {'Gallery', 'Hit', 'Retriever', 'BatchingRetriever'} <= set(dir(caan))\n"
    assert "numpy" not in loaded_by(code)
    code += "from caan import BatchingRetriever, Gallery, Hit, Retriever\nimport caan.runtime\n"
    code += "assert (Gallery, Hit, Retriever) == (caan.runtime.Gallery, caan.Hit, caan.runtime.Retriever)\n"
    code += "assert not hasattr(caan, 'Nothing')\n"
    assert loaded_by(code) - sys.stdlib_module_names - loaded_by("pass") == RUNTIME


def test_importing_the_runtime_loads_little():
    loaded = loaded_by("import caan.runtime") - sys.stdlib_module_names - loaded_by("pass")
    assert loaded == RUNTIME


@pytest.mark.parametrize(
    ("entrance", "arguments"),
    [
        ("main", ["caan", "--help"]),
        ("main", ["caan", "search", "--help"]),
        ("main", ["caan", "explain", "--help"]),
        ("main", ["caan", "inspect", "--help"]),
        ("main", ["caan", "--version"]),
        ("export_main", ["caan-export", "--help"]),
        ("build_engine_main", ["caan-build-engine", "--help"]),
        ("bench_main", ["caan-bench", "--help"]),
    ],
)
def test_help_loads_click_alone(entrance, arguments):
    loaded = loaded_by(f"from caan.cli import {entrance}; {entrance}()", argv=arguments)
    assert "click" in loaded
    assert loaded & {*HEAVY, "numpy", "tqdm", "tabulate"} == set()


def test_building_engines_needs_no_pytorch():
    loaded = loaded_by("import caan.export.engine_from_bundle, caan.accuracy.gate, caan.calibration.calibrate")
    assert "onnx" in loaded and "torch" not in loaded


def test_a_search_loads_no_pytorch(tiny_folder):
    code = (
        "import numpy as np\n"
        "from caan.runtime import Retriever\n"
        f"r = Retriever.open({str(tiny_folder / 'model.caan')!r}, backend='onnxruntime')\n"
        "hits = r.search('w1 w2', r.encode_images(np.ones((3, 5, 12), np.float32)), k=2)\n"
        "assert len(hits) == 2\n"
    )
    loaded = loaded_by(code)
    assert "onnxruntime" in loaded
    assert loaded & (HEAVY - {"onnxruntime"}) == set()


def test_a_search_by_command_loads_no_pytorch(tiny_folder, tiny_data):
    bundle, data = str(tiny_folder / "model.caan"), str(tiny_data)
    loaded = loaded_by("from caan.cli import main; main()", argv=["caan", "eval", bundle, "--data", data])
    assert "onnxruntime" in loaded
    assert loaded & (HEAVY - {"onnxruntime"}) == set()


def test_an_inspection_loads_onnx_alone(tiny_folder):
    code = "from caan.cli import main; main()"
    for arguments in ([], ["--json"], ["--layers", "scorer"]):
        loaded = loaded_by(code, argv=["caan", "inspect", str(tiny_folder / "model.caan"), *arguments])
        assert loaded & HEAVY == {"onnx"}
