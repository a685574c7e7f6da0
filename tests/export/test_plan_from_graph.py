"""Real plan builds: results, options passed to TensorRT, and Ctrl-C."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

import pytest
import tensorrt_rtx

from caan.bundle import GRAPHS
from caan.export import plan_from_graph as engine
from caan.export.plan_from_graph import BuildOptions, build_plan
from tests.export.conftest import ONE, PROFILES, with_build


@pytest.fixture(scope="module")
def plans(target, graphs) -> dict[str, bytes]:
    return {name: build_plan(target, graphs[name], PROFILES[name], BuildOptions()) for name in GRAPHS}


def test_each_graph_becomes_a_plan_of_its_own(plans):
    assert all(isinstance(plan, bytes) and len(plan) > 100_000 for plan in plans.values())
    assert len(set(plans.values())) == len(GRAPHS)


@pytest.mark.slow
def test_a_plan_holds_every_profile(target, graphs, plans):
    one = build_plan(target, graphs["scorer"], PROFILES["scorer"][:1], BuildOptions())
    three = build_plan(target, graphs["scorer"], PROFILES["scorer"][:3], BuildOptions())
    assert len(one) < len(three) < len(plans["scorer"])
    # Each profile has its own code.
    assert len(three) > 2 * len(one)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (BuildOptions(), {}),
        (BuildOptions(("8.6", "12.0")), {"gpus": ["SM86", "SM120"]}),
        (BuildOptions(optimization_level=5), {"level": 5}),
        (BuildOptions(workspace_mib=256), {"workspace": 256 << 20}),
        (BuildOptions(version_compatible=True), {"flags": ["VERSION_COMPATIBLE"]}),
        (BuildOptions(strip_weights=True), {"flags": ["STRIP_PLAN"]}),
        (BuildOptions(hardware_compatible=True), {"hardware": tensorrt_rtx.HardwareCompatibilityLevel.AMPERE_PLUS}),
    ],
)
def test_options_reach_tensorrt(target, graphs, options, expected):
    trt, seen = target.module, {}

    def build(network, config):
        seen["typed"] = network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        seen["profiles"] = config.num_optimization_profiles
        seen["level"] = config.builder_optimization_level
        seen["workspace"] = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        seen["gpus"] = [config.get_compute_capability(n).name for n in range(config.num_compute_capabilities)]
        flags = ("VERSION_COMPATIBLE", "STRIP_PLAN")
        seen["flags"] = [name for name in flags if config.get_flag(getattr(trt.BuilderFlag, name))]
        # TensorRT for RTX ignores the level.
        seen["hardware"] = config.assigned.get("hardware_compatibility_level")
        return b"plan"

    assert build_plan(with_build(target, build), graphs["scorer"], PROFILES["scorer"], options) == b"plan"
    # The default is the GPU's memory, or a large number without a GPU.
    workspace = seen["workspace"] if seen["workspace"] > 1 << 30 else None
    usual = {"typed": True, "profiles": 9, "level": 3, "gpus": [], "flags": [], "hardware": None}
    assert seen == {**usual, "workspace": workspace, **expected}


def test_nothing_is_printed(target, graphs, capfd):
    build_plan(target, graphs["scorer"], PROFILES["scorer"][:1], BuildOptions())
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_bar_shows_profile_after_profile_and_ends_full(target, graphs, monkeypatch):
    bar = RecordingBar()
    monkeypatch.setattr(engine, "progress_bar", lambda *names, **options: bar)
    profiles = PROFILES["scorer"][:4]
    build_plan(target, graphs["scorer"], profiles, BuildOptions())
    assert bar.names == ["", *(profile.name for profile in profiles), ""]
    assert bar.values == sorted(bar.values) and bar.values[0] == 0 and bar.values[-1] == 1
    for number, profile in enumerate(profiles):
        # Work on a profile moves the bar within the profile's share.
        during = bar.during[profile.name]
        assert number / len(profiles) < max(during) < (number + 1) / len(profiles)


class RecordingBar:
    """Replaces tqdm's bar."""

    def __init__(self):
        self.n, self.values, self.names, self.during = 0, [], [], {}

    def update(self, more):
        self.n += more
        self.values.append(self.n)
        self.during.setdefault(self.names[-1], []).append(self.n)

    def set_postfix_str(self, name, refresh):
        if not self.names or self.names[-1] != name:
            self.names.append(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("level", [0, 5])
def test_every_optimization_level_builds(target, graphs, level):
    assert build_plan(target, graphs["image_encoder"], ONE, BuildOptions(optimization_level=level))


PROGRAM = """
import os, signal, sys
from pathlib import Path
from caan.export.plan_from_graph import BuildOptions, build_plan
from caan.export.profiles import parse_profiles
from caan.export.targets import open_target
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
config, limits = {"region_dim": 12, "embed_dim": 10, "attention_dim": 7}, {"regions": 5, "words": 128}
axes = "captions=1,words=9,regions=5"
texts = [f"scorer:number-{n}:images={n}/{n + 1}/{n + 2},{axes}" for n in range(1, 1001)]
try:
    plan = build_plan(
        open_target("tensorrt-rtx"), Path(sys.argv[1]), parse_profiles(texts, config, limits)["scorer"], BuildOptions()
    )
    print("built", len(plan))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_stops_the_build_within_the_step_at_hand(graphs, tmp_path):
    """1,000 profiles would take minutes; the signal arrives during the third."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    program = [sys.executable, "-c", PROGRAM, str(graphs["scorer"])]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=theirs, text=True, cwd=tmp_path) as process:
        os.close(theirs)
        shown = b""
        while b"number-3" not in shown:
            shown += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        try:
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out == "interrupted\n" and process.returncode == 0
    assert b"building scorer:   0%" in shown
    assert list(tmp_path.iterdir()) == []
