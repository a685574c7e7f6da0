"""Engines are programs: those not built here by this user run only if trusted."""

import json
import os
import shutil
from pathlib import Path

import pytest

from caan.bundle import GRAPHS, ep_context_file, open_bundle, plan_file, write_manifest
from caan.engines.built_plans import remember_plan, was_built_here
from caan.errors import BundleError, CaanWarning
from caan.runtime.backends.tensorrt.choose_engine import Machine, choose_engine

HASH = "0123456789abcdef" * 4
ENGINE = "tensorrt-fp32"
MACHINE = Machine({"tensorrt": "11.0"}, "8.6")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "built-plans"


@pytest.fixture
def with_engine(tiny_bundle) -> Path:
    """The tiny bundle with an engine of unknown origin."""
    bundle = open_bundle(tiny_bundle)
    (tiny_bundle / "engines" / ENGINE).mkdir(parents=True)
    for graph in GRAPHS:
        (tiny_bundle / plan_file(graph, ENGINE)).write_bytes(f"plan of {graph}".encode())
    engine = {
        "target": "tensorrt",
        "version": "11.0",
        "precision": "fp32",
        "compute_capabilities": ["8.6"],
        "options": {"version_compatible": True},
        "profiles": {graph: [] for graph in GRAPHS},
        "onnx": {graph: bundle.hash_of(f"onnx/{graph}.fp32.onnx") for graph in GRAPHS},
        "checks": [],
        "run": None,
    }
    write_manifest(tiny_bundle, {**bundle.manifest, "engines": {ENGINE: engine}})
    return tiny_bundle


def choose(folder, **options):
    return choose_engine(open_bundle(folder), "fp32", lambda: MACHINE, **options).name


def test_a_foreign_engine_is_refused_with_both_remedies(with_engine):
    with pytest.raises(BundleError) as refusal:
        choose(with_engine)
    message = str(refusal.value)
    assert f"{ENGINE} of {with_engine} was not built here, and an engine is a program" in message
    assert "add --trust-engines (trust_engines=True)" in message and "caan-build-engine" in message


def test_a_trusted_engine_is_used(with_engine):
    assert choose(with_engine, trust_engines=True) == ENGINE


def test_an_engine_built_here_is_used(with_engine):
    for graph in GRAPHS:
        remember_plan(open_bundle(with_engine).hash_of(plan_file(graph, ENGINE)))
    assert choose(with_engine) == ENGINE


def test_all_of_its_plans_must_have_been_built_here(with_engine):
    for graph in GRAPHS[:-1]:
        remember_plan(open_bundle(with_engine).hash_of(plan_file(graph, ENGINE)))
    with pytest.raises(BundleError, match="was not built here"):
        choose(with_engine)


def test_a_bundle_can_not_say_that_it_was_built_here(with_engine):
    manifest = json.loads((with_engine / "manifest.json").read_text())
    manifest["engines"][ENGINE].update(built_here=True, trusted=True, checks=[{"passed": True}])
    (with_engine / "manifest.json").write_text(json.dumps(manifest, indent=2))
    with pytest.raises(BundleError, match="was not built here"):
        choose(with_engine)


def test_building_an_engine_is_recorded(run, tiny_bundle, cache):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    profile = "scorer:one:images=1/2/4,captions=1/2/4,regions=1/5/5,words=2/4/8"
    assert run("build-engine", tiny_bundle, "--fp32", "--profile", profile).code == 0
    bundle = open_bundle(tiny_bundle)
    name = "tensorrt-rtx-fp32"
    plans = {bundle.hash_of(file(graph, name)) for graph in GRAPHS for file in (plan_file, ep_context_file)}
    assert {path.name for path in cache.iterdir()} == plans and all(map(was_built_here, plans))


def test_a_record_of_another_name_is_ignored(cache):
    remember_plan(HASH)
    other = HASH[::-1]
    os.link(cache / HASH, cache / other)
    assert was_built_here(HASH) and not was_built_here(other)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to give files to others")
def test_another_user_s_record_is_ignored(cache):
    remember_plan(HASH)
    os.chown(cache / HASH, 12345, 12345)
    assert not was_built_here(HASH)


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_a_record_writable_by_others_is_ignored(cache):
    remember_plan(HASH)
    (cache / HASH).chmod(0o666)
    assert not was_built_here(HASH)


@pytest.mark.skipif(os.name != "posix", reason="pipes as on POSIX")
def test_a_pipe_in_place_of_a_record(cache):
    cache.mkdir(parents=True)
    os.mkfifo(cache / HASH)
    assert not was_built_here(HASH)


def test_a_record_that_can_not_be_written_is_a_warning(cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in the folder's place")
    with pytest.warns(CaanWarning, match="the engine will need --trust-engines"):
        remember_plan(HASH)
    shutil.rmtree(cache, ignore_errors=True)
