"""Loading plans: rejected plans, stripped weights, cached kernels."""

import hashlib
import os
from pathlib import Path

import pytest

from caan.bundle import open_bundle
from caan.engines.record import engine_records
from caan.errors import BundleError, MissingError
from caan.runtime.backends.tensorrt.plans import KernelCache, load_plan


@pytest.fixture
def load(tiny_bundle, trt):
    """load(): the scorer of the bundle's only engine."""

    def scorer():
        bundle = open_bundle(tiny_bundle)
        return load_plan(trt, engine_records(bundle)[0], bundle, "scorer", "8.6")

    return scorer


@pytest.fixture
def refused(load, tiny_bundle):
    """refused(error, *texts): the plan is not loaded, and the message contains every text."""

    def check(error, *texts):
        with pytest.raises(error) as refusal:
            load()
        message = str(refusal.value)
        assert [text for text in ("scorer.plan", *texts) if text not in message] == [], message

    return check


def test_a_plan_says_what_it_takes(add_engine, load):
    add_engine("fp16")
    plan = load()
    assert [profile.name for profile in plan.profiles] == ["search", "matrix"]
    assert plan.dtypes["image_states"] == "float16" and plan.dtypes["scores"] == "float32"
    assert plan.columns == {"image_states": 41, "text_states": 31}
    assert plan.output_shape({"images": 3, "regions": 5, "captions": 2, "words": 4}) == (3, 2)


def test_a_plan_that_tensorrt_does_not_load(add_engine, refused, trt, tiny_bundle):
    add_engine()
    trt.loads = False
    says = "TensorRT does not load it (the plan's magic number is another)"
    refused(BundleError, says, f"build it again: caan-build-engine {tiny_bundle} --fp32 --target tensorrt-rtx")


@pytest.mark.parametrize(
    ("mask", "error", "says"),
    [
        (1, BundleError, "another version of TensorRT built it; build it again: caan-build-engine"),
        (2 | 16, BundleError, "it is not for this GPU's compute capability, the GPU has too little memory; build it"),
        (4, MissingError, "the GPU's driver is too old; see caan doctor"),
        (0, BundleError, "TensorRT gives no reason; build it again"),
    ],
)
def test_a_plan_that_is_not_valid_here(add_engine, refused, trt, mask, error, says):
    add_engine()
    trt.verdict = (trt.EngineValidity.INVALID, mask)
    refused(error, "can't be loaded here", says)


def test_a_plan_that_may_be_slower_here_is_loaded(add_engine, load, trt):
    add_engine()
    trt.verdict = (trt.EngineValidity.SUBOPTIMAL, 0)
    assert load().graph == "scorer"


def test_a_plan_deleted_meanwhile(add_engine, trt, tiny_bundle):
    name = add_engine()
    bundle = open_bundle(tiny_bundle)
    (tiny_bundle / "engines" / name / "scorer.plan").unlink()
    with pytest.raises(BundleError, match=r"scorer\.plan can't be read \(No such file or directory\); copy the bundle"):
        load_plan(trt, engine_records(bundle)[0], bundle, "scorer", "8.6")


def test_a_plan_of_another_graph(add_engine, refused, default_profiles, tiny_bundle, trt, monkeypatch):
    add_engine()
    monkeypatch.setattr(
        "caan.runtime.backends.tensorrt.plans.plan_file", lambda graph, name: f"engines/{name}/image_encoder.plan"
    )
    with pytest.raises(BundleError, match="it is not the scorer: its tensors are features, image_states"):
        bundle = open_bundle(tiny_bundle)
        load_plan(trt, engine_records(bundle)[0], bundle, "scorer", "8.6")


def test_a_plan_that_requires_tensors_in_host_memory(add_engine, refused, load, trt, monkeypatch):
    add_engine()
    load()
    monkeypatch.setattr(type(trt.engines[0]), "get_tensor_location", lambda self, name: "host")
    refused(BundleError, "it requires image_lengths, image_states, scores, text_lengths, text_states in host memory")


STRIPPED = {"options": {"stripped": True}}


def test_a_stripped_plan_gets_its_weights_from_the_graph(add_engine, load, trt):
    add_engine(**STRIPPED)
    load()
    assert trt.engines[-1].refitted
    add_engine()
    load()
    assert not trt.engines[-1].refitted


def test_a_stripped_plan_that_can_not_be_refitted(add_engine, refused, trt, monkeypatch):
    add_engine(**STRIPPED)
    trt.refits = False
    refused(BundleError, "its weights can't be taken from scorer.fp32.onnx", "build it again: caan-build-engine")
    trt.refits = True
    monkeypatch.setattr(trt.Refitter, "get_missing_weights", lambda self: ["scorer.w_v"])
    refused(BundleError, "its weights can't be taken from scorer.fp32.onnx")

    def not_refittable(self, engine, log):
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(trt.Refitter, "__init__", not_refittable)
    refused(BundleError, "its weights were stripped, and it can't be refitted")


@pytest.mark.parametrize("compatible", [True, False])
def test_host_code_in_a_plan_is_allowed_only_if_the_record_says_so(add_engine, load, trt, monkeypatch, compatible):
    add_engine(options={"version_compatible": compatible})
    allowed = []
    real = trt.Runtime.deserialize_cuda_engine

    def deserialize(self, content):
        allowed.append(self.engine_host_code_allowed)
        return real(self, content)

    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", deserialize)
    load()
    assert allowed == [compatible]


class Config:
    """As TensorRT for RTX's IRuntimeConfig."""

    def create_runtime_cache(self):
        return Kernels()

    def set_runtime_cache(self, cache):
        self.cache = cache


class Kernels:
    def __init__(self):
        self.content = b""

    def deserialize(self, blob):
        self.content = bytes(blob)

    def serialize(self):
        return memoryview(self.content)


def test_compiled_kernels_are_cached_for_the_next_run(tmp_path):
    file, config = tmp_path / "caches" / "plan.cache", Config()
    first = KernelCache(file)
    first.save()
    assert not file.exists()  # nothing was compiled
    first.attach(config)
    config.cache.content = b"compiled"
    first.save()
    KernelCache(file).attach(config)
    assert config.cache.content == b"compiled"


def test_contexts_share_one_cache(tmp_path):
    cache, plain, repeating = KernelCache(tmp_path / "plan.cache"), Config(), Config()
    cache.attach(plain)
    cache.attach(repeating)
    assert plain.cache is repeating.cache


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:10], lambda c: b"", lambda c: c + b"x"])
def test_damaged_kernels_are_never_passed_to_tensorrt(tmp_path, damage):
    file, config = tmp_path / "plan.cache", Config()
    file.write_bytes(damage(hashlib.sha256(b"compiled").digest() + b"compiled"))
    KernelCache(file).attach(config)
    assert config.cache.content == b""


def test_an_unwritable_kernel_cache_is_not_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    config, cache = Config(), KernelCache(tmp_path / "file" / "plan.cache")
    cache.attach(config)
    config.cache.content = b"compiled"
    cache.save()


def test_kernels_are_cached_by_plan_and_gpu(add_engine, load, tiny_bundle, gpu):
    name = add_engine()
    digest = open_bundle(tiny_bundle).hash_of(f"engines/{name}/scorer.plan")
    plan = load()
    gpu.enter()
    plan.new_context(0, gpu.allocate(plan.scratch_bytes), gpu.stream(), repeating=False)
    plan.save_kernels()
    assert (Path(os.environ["CAAN_CACHE"]) / "runtime" / f"{digest[:40]}-8.6.cache").is_file()
