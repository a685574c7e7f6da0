"""The manifest's record of an engine."""

import json

import pytest

from caan.engines.record import NOT_RUN, engine_name
from caan.export.engine_from_bundle import EngineJob, engine_entry
from caan.export.plan_from_graph import BuildOptions
from tests.export.conftest import PROFILES, target

__all__ = ["target"]


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [
        ((), "tensorrt-rtx-fp16"),
        (("8.6",), "tensorrt-rtx-fp16-sm86"),
        (("8.6", "12.0"), "tensorrt-rtx-fp16-sm86-sm120"),
    ],
)
def test_an_engine_is_named_for_target_precision_and_capabilities(target, capabilities, name):
    assert engine_name("tensorrt-rtx", "fp16", capabilities) == name


def test_the_record_of_an_engine(target):
    options = BuildOptions(("8.6",), optimization_level=4, workspace_mib=256)
    job = EngineJob("int8", target, PROFILES, options)
    record = engine_entry("tensorrt-rtx-int8-sm86", job, PROFILES, {"scorer": "abc"})
    assert record == {
        "target": "tensorrt-rtx",
        "version": target.version,
        "precision": "int8",
        "compute_capabilities": ["8.6"],
        "options": {
            "optimization_level": 4,
            "workspace_mib": 256,
            "version_compatible": False,
            "hardware_compatible": False,
            "stripped": False,
        },
        "profiles": {graph: [profile.as_dict() for profile in own] for graph, own in PROFILES.items()},
        "onnx": {"scorer": "abc"},
        "checks": [],
        "run": NOT_RUN,
    }
    assert json.loads(json.dumps(record)) == record
