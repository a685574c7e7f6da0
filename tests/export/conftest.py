"""Inputs for engine builds: the tiny model's graphs, and TensorRT for RTX, which needs no GPU."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from caan.bundle import GRAPHS
from caan.export.profiles import Statistics, default_profiles
from caan.export.targets import TIMING_CACHE, open_target

CONFIG = {"region_dim": 12, "embed_dim": 10, "attention_dim": 7, "num_regions": 5}
LIMITS = {"regions": 512, "words": 128}
PROFILES = default_profiles(CONFIG, LIMITS, Statistics.assumed(CONFIG))
ONE = PROFILES["image_encoder"][:1]


@pytest.fixture(scope="module")
def target():
    return open_target("tensorrt-rtx")


@pytest.fixture(scope="module")
def graphs(tiny_folder) -> dict[str, Path]:
    return {name: tiny_folder / "model.caan" / "onnx" / f"{name}.fp32.onnx" for name in GRAPHS}


class Forwarding:
    """A proxy of another object that records assignments."""

    def __init__(self, real, **own):
        vars(self).update(real=real, assigned={}, **own)

    def __getattr__(self, name):
        return getattr(self.real, name)

    def __setattr__(self, name, value):
        self.assigned[name] = value
        setattr(self.real, name, value)


def with_build(target, build):
    """The target, with a builder that calls build(network, config) instead of building."""

    def builder(log):
        real = target.module.Builder(log)
        config = Forwarding(real.create_builder_config())
        return Forwarding(real, create_builder_config=lambda: config, build_serialized_network=build)

    module = ModuleType("changed")
    vars(module).update(vars(target.module), Builder=builder)
    return replace(target, module=module, lacks={TIMING_CACHE: ""})
