"""Who may import what: the rooms' rules, and what the light entrances pull in."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
    *TENSORRT,
}
BASE = {
    "caan",
    "errors",
    "_cgroups",
    "_checksum",
    "_files",
    "_machine",
    "_built_plans",
    "_protobuf",
    "_progress",
    "_tensorrt_log",
    "_text",
}  # what every room may use; "caan" is the package's __init__

# Room → what it may import: rooms of this package, and packages of others.
ROOMS = {
    "errors": (set(), set()),
    "_cgroups": (set(), set()),
    "_machine": ({"errors", "_cgroups"}, set()),
    "_text": ({"errors"}, set()),
    "_files": ({"errors"}, set()),
    "_checksum": ({"_text"}, set()),
    "_built_plans": ({"errors", "_files"}, set()),
    "bundle": ({"errors", "_checksum", "_files", "_text"}, {"numpy"}),
    "_protobuf": (set(), set()),
    "graphs": ({"errors", "bundle", "_protobuf"}, set()),
    "metrics": ({"errors"}, {"numpy"}),
    "tiling": (set(), {"numpy"}),
    "_progress": (set(), {"tqdm"}),
    "_tensorrt_log": (set(), set()),
    "data": (BASE, {"numpy", "PIL"}),
    "model": (BASE | {"data", "bundle", "metrics"}, {"numpy", "torch", "tqdm"}),
    "calibration": (
        BASE | {"data", "bundle", "metrics", "tiling"},
        {"numpy", "onnx", "onnxruntime", "tabulate", "tqdm"},
    ),
    "export": (
        BASE | {"data", "model", "calibration", "bundle", "graphs", "tiling"},
        {"numpy", "torch", "onnx", "onnxscript", "onnxruntime", "onnx_graphsurgeon", *TENSORRT, "tabulate", "tqdm"},
    ),
    "runtime": (
        BASE | {"data", "bundle", "graphs", "metrics", "tiling"},
        {"numpy", "onnxruntime", *TENSORRT, "cuda", "tqdm", "prometheus_client", "caan_native"},
    ),
    # The one corner of the runtime that needs PyTorch: Triton's kernels are launched with its tensors.
    "runtime/triton": (BASE | {"runtime", "data", "bundle", "tiling"}, {"numpy", "torch", "triton"}),
    "pictures": (BASE | {"data", "runtime"}, {"numpy", "PIL", "matplotlib"}),
    "bench": (
        BASE | {"data", "bundle", "metrics", "tiling", "runtime", "model", "export"},
        {"numpy", "torch", "tabulate", "tqdm"},
    ),
    "report": (
        BASE | {"data", "bundle", "metrics", "runtime", "bench", "pictures"},
        {"numpy", "jinja2", "markupsafe", "PIL"},
    ),
}
OPEN = {"cli", "commands", "__init__", "__main__"}  # the commands may import everything
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] in {room + end for room in [*ROOMS, *OPEN] for end in ("", ".py")}
]


def room_of(path):
    parts = path.relative_to(ROOT).parts
    corner = "/".join(parts[:2])
    return corner if corner in ROOMS else parts[0].removesuffix(".py")


def imports(path):
    """(rooms of this package, packages of others) that a source file imports anywhere, for types alone excepted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    types_alone = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = ["caan", *path.relative_to(ROOT).parts[:-1]]
    names = set()
    for node in set(ast.walk(tree)) - types_alone:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "caan" else {module}
    parts = [name.split(".") for name in names]
    # `from .. import __version__` is an import of the package itself
    rooms = {
        p[1] if (ROOT / p[1]).is_dir() or (ROOT / f"{p[1]}.py").is_file() else "caan" for p in parts if p[0] == "caan"
    }
    return rooms, {p[0] for p in parts} - {"caan"} - sys.stdlib_module_names


def loaded_by(code, *, argv=("caan",)):
    """The top-level packages that a fresh interpreter has loaded after this code."""
    program = f"import sys, json; sys.argv = {list(argv)!r}\ntry:\n    exec({code!r})\nexcept SystemExit:\n    pass\n"
    program += "print('LOADED', json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(done.stdout.rpartition("LOADED ")[2]))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_imports_what_it_may(path):
    room = room_of(path)
    if room in OPEN:
        return
    rooms, packages = imports(path)
    allowed_rooms, allowed_packages = ROOMS[room]
    assert rooms - allowed_rooms - {room} == set()
    assert packages - allowed_packages == set()


def test_every_module_at_the_root_and_every_room_has_a_rule():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    modules = {path.stem for path in ROOT.glob("*.py")}
    assert packages | modules <= {*ROOMS, *OPEN}


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


def test_importing_the_runtime_loads_numpy_alone():
    loaded = loaded_by("import caan.runtime") - sys.stdlib_module_names - loaded_by("pass")
    assert loaded == {"caan", "numpy"}


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
    loaded = loaded_by("import caan.export.to_engine, caan.bench.gate, caan.calibration.calibrate")
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
