"""Timing caches: saved, loaded by the next build, dropped if they don't match, and never fatal to a build."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import tensorrt_rtx

from caan.errors import CaanWarning, ExportError
from caan.export import plan_from_graph as engine
from caan.export.plan_from_graph import BuildOptions, build_plan, timing_cache_file
from caan.export.profiles import Statistics, default_profiles
from caan.export.targets import TIMING_CACHE
from tests.export.conftest import CONFIG, LIMITS, ONE


@pytest.fixture
def caching(target):
    """A target with a timing cache: TensorRT for RTX still has the calls, with a warning that they are no-ops."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield replace(target, lacks={name: why for name, why in target.lacks.items() if name != TIMING_CACHE})


@pytest.fixture
def given_caches(monkeypatch) -> list[bytes]:
    """The timing caches passed to TensorRT."""
    given, create = [], tensorrt_rtx.IBuilderConfig.create_timing_cache
    monkeypatch.setattr(
        tensorrt_rtx.IBuilderConfig,
        "create_timing_cache",
        lambda config, content: given.append(bytes(content)) or create(config, content),
    )
    return given


def test_a_timing_cache_is_kept_and_given_to_the_next_build(caching, graphs, tmp_path, given_caches):
    file = tmp_path / "folder" / "times"
    options = BuildOptions(timing_cache=file)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaanWarning)
        build_plan(caching, graphs["image_encoder"], ONE, options)
        kept = file.read_bytes()
        build_plan(caching, graphs["image_encoder"], ONE, options)
    assert given_caches[0] == b"" and len(given_caches[1]) > 100 and kept.endswith(given_caches[1])
    assert [path.name for path in file.parent.iterdir()] == ["times"]


def test_a_timing_cache_of_another_gpu_is_dropped(caching, graphs, tmp_path, monkeypatch, given_caches):
    options = BuildOptions(timing_cache=tmp_path / "times")
    build_plan(caching, graphs["image_encoder"], ONE, options)
    monkeypatch.setattr(tensorrt_rtx.IBuilderConfig, "set_timing_cache", lambda config, timings, ignore: False)
    with pytest.warns(CaanWarning, match="was not used: TensorRT rejects it"):
        build_plan(caching, graphs["image_encoder"], ONE, options)
    assert given_caches[-1] == b""


def test_complaints_about_a_missing_driver_do_not_hide_the_reason(caching, graphs, tmp_path):
    options = BuildOptions(timing_cache=tmp_path / "times")
    build_plan(caching, graphs["image_encoder"], ONE, options)
    other = default_profiles({**CONFIG, "region_dim": 13}, LIMITS, Statistics.assumed(CONFIG))["image_encoder"][:1]
    # When it reads a timing cache, TensorRT looks for a GPU and first reports that there is none.
    with pytest.raises(ExportError, match=r"fp32\.onnx: Dimension mismatch for tensor features"):
        build_plan(caching, graphs["image_encoder"], other, options)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:-1] + b"?", lambda b: b"?" + b[1:]])
def test_a_damaged_timing_cache_is_dropped(caching, graphs, tmp_path, damage):
    file = tmp_path / "times"
    options = BuildOptions(timing_cache=file)
    build_plan(caching, graphs["image_encoder"], ONE, options)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with pytest.warns(CaanWarning, match=f"the timing cache {file} was not used: it is damaged"):
        build_plan(caching, graphs["image_encoder"], ONE, options)
    assert len(file.read_bytes()) == len(whole)


def test_a_timing_cache_that_can_t_be_kept_does_not_fail_the_build(caching, graphs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(CaanWarning) as caught:
        assert build_plan(caching, graphs["image_encoder"], ONE, BuildOptions(timing_cache=tmp_path / "file" / "times"))
    assert "the timing cache can't be saved: can't write" in str(caught[-1].message)


def test_the_default_timing_cache_is_per_version_and_device(caching, graphs, monkeypatch):
    monkeypatch.setattr(engine, "nvidia_gpus", lambda: ["NVIDIA A, 580, 8 GiB"])
    first = timing_cache_file(caching)
    assert first.parent == Path(os.environ["CAAN_CACHE"]) / "timing"
    assert first.name.startswith(f"{caching.name}-{caching.version}-")
    build_plan(caching, graphs["image_encoder"], ONE, BuildOptions())
    assert first.is_file()
    monkeypatch.setattr(engine, "nvidia_gpus", lambda: ["NVIDIA B, 580, 8 GiB"])
    assert timing_cache_file(caching) != first


def test_a_target_without_a_timing_cache_leaves_none(target, graphs, monkeypatch, tmp_path):
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path))
    build_plan(target, graphs["image_encoder"], ONE, BuildOptions())
    assert list(tmp_path.iterdir()) == []
