"""The kernel's bench: what it says without a GPU, and on one, that its two rivals compute the same."""

import pytest
import torch

from caan.bench import gpu_kernel, run
from caan.bundle import open_bundle


@pytest.mark.parametrize("driver", [True, False])
def test_the_bench_has_a_row_for_each_precision_of_the_kernel_where_there_is_a_gpu(monkeypatch, tiny_folder, driver):
    monkeypatch.setattr(run, "has_nvidia_driver", lambda: driver)
    rows = [row for row in run._rows(open_bundle(tiny_folder / "model.caan"), None) if row.spec.backend == "triton"]
    assert [row.name for row in rows] == (["triton fp32 cuda", "triton bf16 cuda"] if driver else [])
    assert all(row.reason is None for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU lacks")
def test_without_a_gpu_it_says_what_it_needs(capsys):
    pytest.importorskip("triton", reason="needs Triton: pip install 'caan-deploy[triton]'")
    assert gpu_kernel.main() == 4
    out, err = capsys.readouterr()
    assert out == "" and "needs an NVIDIA GPU and a PyTorch built for CUDA" in err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for CUDA")
def test_the_kernel_and_the_compiled_equations_agree(monkeypatch):
    monkeypatch.setattr(gpu_kernel, "IMAGES", 130)
    monkeypatch.setattr(gpu_kernel, "CAPTIONS", 150)
    limits = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
    for found in gpu_kernel.measure_kernel(lambda message: None, dim=128):
        assert found.difference is not None and found.difference <= limits[found.dtype]
