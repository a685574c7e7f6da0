"""What the machine is, as far as psutil and NVIDIA's driver tell."""

import os
import sys
from types import SimpleNamespace

import psutil
import pytest

from caan import _machine
from caan._machine import describe_machine, nvidia_gpus, peak_memory
from caan.bench.gpu_record.steps import machine as step


class RefusalError(Exception):
    pass


def fake_nvml(*, gpus=1, starts=True):
    """A stand-in for pynvml; what a GPU does not answer is refused. `open`: starts less stops."""

    def init():
        if not starts:
            raise RefusalError("Driver Not Loaded")
        nvml.open += 1

    def stop():
        nvml.open -= 1

    def refuse(*_):
        raise RefusalError("Not Supported")

    nvml = SimpleNamespace(
        NVMLError=RefusalError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        open=0,
        nvmlInit=init,
        nvmlShutdown=stop,
        nvmlSystemGetDriverVersion=lambda: "580.82",
        nvmlDeviceGetCount=lambda: gpus,
        nvmlDeviceGetHandleByIndex=lambda number: f"gpu {number}" if number < gpus else refuse(),
        nvmlDeviceGetName=lambda gpu: f"NVIDIA {gpu}",
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(total=143_771 << 20),
        nvmlDeviceGetCudaComputeCapability=lambda gpu: (9, 0),
        nvmlDeviceGetMaxClockInfo=lambda gpu, kind: 1980 if kind == 1 else 3201,
        nvmlDeviceGetPowerManagementLimit=lambda gpu: 700_000,
        nvmlDeviceGetEccMode=lambda gpu: [1, 1],
        nvmlDeviceGetMigMode=refuse,
        nvmlDeviceGetPersistenceMode=lambda gpu: 1,
    )
    return nvml


@pytest.fixture
def install(monkeypatch):
    """install(nvml, driver=True): what `import pynvml` finds; None: it is not installed."""

    def put(nvml, driver=True):
        monkeypatch.setattr(_machine, "has_nvidia_driver", lambda: driver)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return put


def test_every_gpu_has_a_line(install):
    nvml = install(fake_nvml(gpus=2))
    assert nvidia_gpus() == ["NVIDIA gpu 0, 580.82, 143771 MiB", "NVIDIA gpu 1, 580.82, 143771 MiB"]
    assert nvml.open == 0


def test_without_a_driver_or_a_gpu_there_are_none(install):
    install(fake_nvml(), driver=False)
    assert nvidia_gpus() == []
    install(fake_nvml(starts=False))
    assert nvidia_gpus() == []
    install(fake_nvml(gpus=0))
    assert nvidia_gpus() == []


def test_a_driver_that_fails_midway_is_closed(install):
    nvml = install(fake_nvml())
    nvml.nvmlDeviceGetName = nvml.nvmlDeviceGetMigMode
    assert nvidia_gpus() == [] and nvml.open == 0


def test_without_its_package_a_gpu_is_there_all_the_same(install):
    install(None)
    assert nvidia_gpus() == ["an NVIDIA GPU; for its name: pip install nvidia-ml-py"]


def test_the_record_says_what_the_driver_answers(install):
    install(fake_nvml())
    described = step._by_driver()
    assert "NVIDIA gpu 0" in described and "compute capability 9.0" in described and "power limit, W 700.0" in described
    assert "MIG (current, pending) –" in described
    install(fake_nvml(starts=False))
    assert step._by_driver() == "Driver Not Loaded"
    install(fake_nvml(gpus=0))
    assert step._by_driver() == "Not Supported"
    install(None)
    assert step._by_driver() == "nvidia-ml-py is not installed"


def test_the_memory_is_the_systems(monkeypatch):
    assert f", {psutil.virtual_memory().total / 2**30:.0f} GiB, " in describe_machine()
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert "GiB" not in describe_machine()


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the number of pages is asked for as on POSIX")
def test_the_machines_name_is_as_it_was_before_psutil():
    """Tunings are kept under it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert f", {memory / 2**30:.0f} GiB, " in describe_machine()


def test_the_peak_is_no_less_than_the_present():
    assert peak_memory() >= psutil.Process().memory_info().rss
