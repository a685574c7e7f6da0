"""`caan doctor` on the backend `triton`, on different machines."""

import pytest

from caan.errors import install
from caan.runtime import doctor
from caan.runtime.doctor import diagnose


@pytest.fixture
def check(monkeypatch):
    """check(gpus, torch=version, triton=version): the line on Triton."""

    def look(gpus, **versions):
        monkeypatch.setattr(doctor, "nvidia_gpus", lambda: gpus)
        monkeypatch.setattr(doctor, "_version", versions.get)
        return next(check for check in diagnose().checks if check.name == "backend triton")

    return look


def test_everything_is_there(check):
    result = check(["a GPU"], torch="2.13.0", triton="3.7.1")
    assert result.ok and result.advice == ""
    assert "triton 3.7.1, torch 2.13.0" in result.detail


@pytest.mark.parametrize("versions", [{}, {"torch": "2.13.0"}, {"triton": "3.7.1"}])
def test_a_package_is_missing(check, versions):
    result = check(["a GPU"], **versions)
    assert not result.ok and result.advice == install("triton")
    assert all((package in result.detail) == (package not in versions) for package in ("torch", "triton"))


def test_there_is_no_gpu(check):
    result = check([], torch="2.13.0", triton="3.7.1")
    assert not result.ok and "no NVIDIA GPU" in result.detail and "driver" in result.advice


def test_pytorch_is_the_one_without_cuda(check):
    result = check(["a GPU"], torch="2.13.0+cpu", triton="3.7.1")
    assert not result.ok and "without CUDA" in result.detail and "[triton]" in result.advice
