"""The kernel's bench: its message without a GPU, and on a GPU, that its two rivals compute the same."""

import json
from dataclasses import replace

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
    pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")
    assert gpu_kernel.main([]) == 4
    out, err = capsys.readouterr()
    assert out == "" and "needs an NVIDIA GPU and a PyTorch built for CUDA" in err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for CUDA")
def test_the_kernel_and_the_compiled_equations_agree():
    rows = {}
    sizes = gpu_kernel.Sizes(130, 150, 36, 14, 128, 30, (10, 30), 512)
    gpu_kernel.measure(sizes, gpu_kernel.gpu_device(), rows.__setitem__)
    assert all(row.get("ok", True) for row in rows.values()), rows
    assert all(f"÷ {rival}" in rows[dtype] for dtype in gpu_kernel.DTYPES for rival in gpu_kernel.RIVALS)


def test_padding_is_counted_as_work_of_the_kernel_but_not_as_useful():
    pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")
    sizes = [replace(gpu_kernel.TINY, regions=R, words=T) for R, T in ((48, 16), (36, 14))]
    full, usual = (gpu_kernel.Inputs(size, "float16", "cpu") for size in sizes)
    assert usual.padded_flop == full.padded_flop
    assert usual.work.flop < full.work.flop < full.padded_flop


def test_its_numbers_are_written_after_each_row(monkeypatch, tmp_path):
    file = tmp_path / "speed.json"

    def measure(sizes, device, put):
        put("one", {"seconds": 0.5})
        assert json.loads(file.read_text()) == {"one": {"seconds": 0.5}}
        put("two", {"seconds": 0.25})

    monkeypatch.setattr(gpu_kernel, "measure", measure)
    assert gpu_kernel.main(["--rehearse", "--json", str(file)]) == 0
    assert list(json.loads(file.read_text())) == ["one", "two"]
