"""Targets: selection of a TensorRT, its capabilities on this machine, and its messages."""

import sys

import pytest
import tensorrt_rtx

from caan.errors import InputError, MissingError
from caan.export import targets
from caan.export.targets import (
    HARDWARE_COMPATIBLE,
    STRIP_WEIGHTS,
    TIMING_CACHE,
    VERSION_COMPATIBLE,
    open_target,
)

OPTIONS = (VERSION_COMPATIBLE, HARDWARE_COMPATIBLE, STRIP_WEIGHTS, TIMING_CACHE)


@pytest.fixture
def gpu(monkeypatch):
    """gpu(visible): set whether a GPU driver is visible."""

    def see(visible):
        monkeypatch.setattr(targets, "has_nvidia_driver", lambda: visible)

    see(False)
    return see


@pytest.fixture
def full_tensorrt(monkeypatch):
    """TensorRT for RTX, which has the same API, installed as `tensorrt`."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_rtx)


def test_without_a_gpu_tensorrt_for_rtx_is_the_default(gpu, full_tensorrt):
    target = open_target()
    assert (target.name, target.version) == ("tensorrt-rtx", tensorrt_rtx.__version__)
    assert target.module is tensorrt_rtx


def test_with_a_gpu_and_tensorrt_that_is_the_default(gpu, full_tensorrt):
    gpu(True)
    assert open_target().name == "tensorrt"


def test_with_a_gpu_but_without_tensorrt_tensorrt_for_rtx_is_the_default(gpu, monkeypatch):
    gpu(True)
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    assert open_target().name == "tensorrt-rtx"


@pytest.mark.parametrize(("name", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_a_target_that_is_not_installed_names_the_extra(gpu, monkeypatch, name, extra):
    monkeypatch.setitem(sys.modules, name.replace("-", "_"), None)
    with pytest.raises(MissingError, match=rf"'{name}' needs .*\[{extra}\]"):
        open_target(name)


def test_tensorrt_without_a_gpu_points_to_the_target_that_needs_none(gpu, full_tensorrt):
    with pytest.raises(MissingError, match="no NVIDIA driver is visible here; use --target tensorrt-rtx"):
        open_target("tensorrt")


def test_an_unknown_target_lists_the_known():
    with pytest.raises(InputError, match="unknown target 'rtx'; known: tensorrt, tensorrt-rtx"):
        open_target("rtx")


def test_capabilities_are_those_of_the_module():
    target = open_target("tensorrt-rtx")
    assert {"8.6", "8.9", "12.0"} <= set(target.capabilities)
    members = {name for name in tensorrt_rtx.ComputeCapability.__members__ if name.startswith("SM")}
    assert {target.capability(name).name for name in target.capabilities} == members


def test_capabilities_come_in_order_and_once():
    target = open_target("tensorrt-rtx")
    assert target.check_capabilities(["12.0", "8.6", "12.0"]) == ("8.6", "12.0")
    assert target.check_capabilities([]) == ()


@pytest.mark.parametrize("name", ["9.0", "86", "sm86", "", "8.6.0", "CURRENT"])
def test_a_capability_that_the_target_does_not_have_lists_those_it_has(name):
    with pytest.raises(InputError, match=rf"no compute capability '{name}'; it has: 7\.5, 8\.0, .*--target tensorrt"):
        open_target("tensorrt-rtx").check_capabilities(["8.6", name])


def test_tensorrt_builds_for_the_gpu_at_hand_alone(gpu, full_tensorrt):
    gpu(True)
    target = open_target("tensorrt")
    assert target.check_capabilities([]) == ()
    with pytest.raises(InputError, match=r"builds only for the local GPU.*tensorrt-rtx"):
        target.check_capabilities(["8.6"])


def test_tensorrt_has_every_option(gpu, full_tensorrt):
    gpu(True)
    for option in OPTIONS:
        open_target("tensorrt").check_option(option)


@pytest.mark.parametrize("option", OPTIONS)
def test_tensorrt_for_rtx_says_which_option_it_does_not_have(gpu, option):
    target = open_target("tensorrt-rtx")
    with pytest.raises(InputError, match=rf"{target} has no {option}: "):
        target.check_option(option)


def test_tensorrt_for_rtx_strips_weights_where_a_gpu_is(gpu):
    gpu(True)
    target = open_target("tensorrt-rtx")
    target.check_option(STRIP_WEIGHTS)
    with pytest.raises(InputError):
        target.check_option(VERSION_COMPATIBLE)
