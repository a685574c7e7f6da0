"""`caan doctor` on TensorRT, on different machines."""

import pytest

from caan.errors import MissingError
from caan.runtime import doctor
from caan.runtime.doctor import diagnose


@pytest.fixture
def checks(monkeypatch, trt, gpu):
    """checks(installed, driver, capability): {name: check} of TensorRT's lines."""

    def look(installed=("tensorrt", "tensorrt-rtx"), driver=True, capability="8.6"):
        monkeypatch.setattr(doctor, "installed_module", lambda target: trt if target in installed else None)
        monkeypatch.setattr(doctor, "has_nvidia_driver", lambda: driver)
        monkeypatch.setattr(gpu, "capability", capability)
        monkeypatch.setattr(doctor.Gpu, "open", lambda: gpu)
        return {check.name: check for check in diagnose().checks if check.name.startswith("backend tensorrt")}

    return look


def test_everything_is_there(checks):
    results = checks()
    assert list(results) == ["backend tensorrt", "backend tensorrt, rtx"]
    for check in results.values():
        assert check.ok and check.advice == ""
        assert check.detail == "1.7.1.116, Fake GPU with compute capability 8.6"


def test_a_module_is_missing(checks):
    results = checks(installed=())
    assert not results["backend tensorrt"].ok and "[gpu]" in results["backend tensorrt"].advice
    assert "tensorrt_rtx is not installed" in results["backend tensorrt, rtx"].detail
    assert "[rtx]" in results["backend tensorrt, rtx"].advice


def test_without_a_gpu_no_gpu_package_is_recommended(checks):
    results = checks(installed=(), driver=False)
    assert "[gpu]" not in results["backend tensorrt"].advice and "driver" in results["backend tensorrt"].advice
    assert "[rtx]" in results["backend tensorrt, rtx"].advice  # it builds engines anywhere


def test_there_is_no_gpu(checks):
    results = checks(driver=False)
    assert results["backend tensorrt"].detail == "1.7.1.116; no NVIDIA GPU or driver here"
    assert results["backend tensorrt, rtx"].detail == "1.7.1.116, builds engines; no NVIDIA GPU or driver here"
    assert all("driver" in check.advice and not check.ok for check in results.values())


def test_a_gpu_tensorrt_for_rtx_does_not_support(checks):
    results = checks(capability="9.0")
    assert results["backend tensorrt"].ok
    check = results["backend tensorrt, rtx"]
    assert not check.ok and "compute capability 9.0, only for 7.5, 8.6, 12.0" in check.detail
    assert "[gpu]" in check.advice


def test_the_bindings_are_missing(checks, monkeypatch):
    def missing():
        raise MissingError("the backend 'tensorrt' needs the package 'cuda'; get it")

    results = checks()
    monkeypatch.setattr(doctor.Gpu, "open", missing)
    results = {check.name: check for check in diagnose().checks}
    assert "needs the package 'cuda'" in results["backend tensorrt"].detail and not results["backend tensorrt"].ok
