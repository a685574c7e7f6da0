"""The scorer of a TensorRT engine as one layer: the fused kernel as an ahead-of-time plugin, its PTX inside the plan.

Such an engine needs neither Triton nor Python to run. TensorRT has these plugins (`tensorrt.plugin`, experimental),
TensorRT for RTX has none. As NVIDIA describes `tensorrt.plugin.aot_impl`, TensorRT is given a kernel's name and PTX,
its launch as expressions of the input shapes, and the numbers that go between its inputs and its outputs. For further
parameters of the kernel it passes null.

Tried with the Python half of TensorRT 11.4; it has not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import count
from types import GenericAlias
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle import INPUTS, Bundle, state_widths
from ...errors import InputError, MissingError
from ..scorer_weights import attention_scale, scorer_weights
from ..tensorrt.cuda import Gpu
from .ahead import DTYPES, AheadKernel, compile_ahead
from .backend import OLDEST
from .launch import TooLargeError

_INPUTS = ("image_states", "image_lengths", "text_states", "text_lengths", "weights")
# Precision → TensorRT's names of the types of states, in a network and in a plugin.
_TYPES = {"fp32": ("FLOAT", "FP32"), "fp16": ("HALF", "FP16")}
_NUMBERS = count()  # a plugin's name can be taken once


class FusedScorer:
    """Defines a scorer's network, in place of its ONNX graph: the same inputs, the same output, one layer."""

    def __init__(
        self,
        trt: Any,
        precision: str,
        widths: Mapping[str, int],
        weights: NDArray[np.float32],
        kernels: list[AheadKernel],
    ) -> None:
        """trt: the module `tensorrt`; widths: of states, {"image": 2D + 3d, "text": D + 3d}; weights (2, d) float32."""
        self._trt, self._plugins = trt, _plugins(trt)
        self._precision, self._widths = precision, widths
        self._weights = weights  # TensorRT reads them when it builds
        self.kernels = kernels

    @classmethod
    def open(cls, bundle: Bundle, trt: Any, precision: str, regions: int, words: Iterable[int]) -> FusedScorer:
        """For the GPU at hand. regions: the most that the engine shall take; words: the most of each of its profiles.

        Compiles the kernels, which takes up to a minute. Raises InputError for a module without such plugins, a
        precision or a size that the kernel does not have, MissingError if no GPU answers or it is too old, BundleError
        for a bundle without the scorer's weights.
        """
        _plugins(trt)
        if precision not in DTYPES:
            raise InputError(
                f"the fused scorer computes in {', '.join(DTYPES)}, not in {precision}; leave out --fused-scorer"
            )
        weights, scale, config = scorer_weights(bundle), attention_scale(bundle), bundle.config
        capability, cuda = _gpu()
        shape = (config["embed_dim"], config["attention_dim"])
        try:
            kernels = compile_ahead(shape, scale, regions, words, precision, capability, cuda)
        except TooLargeError as error:
            raise InputError(
                f"the fused scorer can't take items as large as the scorer's profiles allow, {regions} regions ×"
                f" {max(words)} words, in {precision} on this GPU\nname smaller with --profile, or leave out"
                " --fused-scorer"
            ) from error
        return cls(trt, precision, state_widths(config), weights, kernels)

    def __call__(self, network: Any) -> None:
        """Add inputs, layer and output to an empty network, which must not outlive this object."""
        trt = self._trt
        state, _ = _TYPES[self._precision]
        tensors = []
        for name, axes in INPUTS["scorer"].items():
            columns = (self._widths[name.removesuffix("_states")],) if name.endswith("_states") else ()
            kind = getattr(trt.DataType, state if columns else "INT64")
            tensor = network.add_input(name, kind, (*(-1 for _ in axes), *columns))
            for number, axis in enumerate(axes):
                tensor.set_dimension_name(number, axis)  # axes of one name have one size
            tensors.append(tensor)
        weights = network.add_constant(self._weights.shape, trt.Weights(self._weights))
        layer = network.add_plugin(self._register()(*tensors, weights.get_output(0)), aot=True)
        layer.name = "scorer/fused"
        scores = layer.get_output(0)
        scores.name = "scores"
        network.mark_output(scores)

    def _register(self) -> Any:
        """A plugin for these kernels, each of which is a tactic: the builder times them and takes the fastest."""
        plugins, kernels, name = self._plugins, self.kernels, f"fused_scorer_{next(_NUMBERS)}"
        _, state = _TYPES[self._precision]
        kinds = ", ".join([state, "INT64", state, "INT64", "FP32", "FP32"])

        def describe(image_states: Any, image_lengths: Any, text_states: Any, text_lengths: Any, weights: Any) -> Any:
            scores = (image_states.shape_expr[0], text_states.shape_expr[0])
            return plugins.from_shape_expr(scores, self._trt.DataType.FLOAT)

        def tactics(
            image_states: Any, image_lengths: Any, text_states: Any, text_lengths: Any, weights: Any, outputs: Any
        ) -> Any:
            return [plugins.AutoTuneCombination(kinds, "LINEAR", range(1, len(kernels) + 1))]

        def launch(
            image_states: Any,
            image_lengths: Any,
            text_states: Any,
            text_lengths: Any,
            weights: Any,
            outputs: Any,
            tactic: int,
        ) -> Any:
            kernel = kernels[tactic - 1]
            (n, R, _), (m, T, _) = image_states.shape_expr, text_states.shape_expr
            *narrower, (_, captions) = kernel.widths
            groups = plugins.cdiv(m, captions)
            for longest, captions in reversed(narrower):
                fit = T < longest + 1  # noqa: SIM300  # 1 or 0
                groups = fit * plugins.cdiv(m, captions) + (plugins.ShapeExpr(1) - fit) * groups
            where = plugins.KernelLaunchParams(grid_x=n * groups, block_x=kernel.threads, shared_mem=kernel.shared)
            return kernel.name, kernel.ptx, where, plugins.SymIntExprs.from_tuple((n, m, R, T))

        tensors = dict.fromkeys(_INPUTS, plugins.TensorDesc)
        results = (str, str, plugins.KernelLaunchParams, plugins.SymIntExprs)
        # TensorRT reads annotations, and its types are known only here.
        describe.__annotations__ = {**tensors, "return": plugins.TensorDesc}
        tactics.__annotations__ = {**tensors, "return": GenericAlias(list, plugins.AutoTuneCombination)}
        launch.__annotations__ = {**tensors, "return": GenericAlias(tuple, results)}
        plugins.register(f"caan::{name}")(describe)
        plugins.autotune(f"caan::{name}")(tactics)
        plugins.aot_impl(f"caan::{name}")(launch)
        return getattr(plugins.op.caan, name)


def _plugins(trt: Any) -> Any:
    """The module's plugins. Raises InputError if it has none that are compiled ahead of time."""
    try:
        plugins = import_module(f"{trt.__name__}.plugin")
    except ImportError:
        plugins = None
    if not hasattr(plugins, "aot_impl"):
        raise InputError(
            f"{trt.__name__} {trt.__version__} has no ahead-of-time plugins, which --fused-scorer needs; use --target"
            " tensorrt, 11 or newer, or leave it out"
        )
    return plugins


def _gpu() -> tuple[tuple[int, int], tuple[int, int]]:
    """The compute capability of the GPU at hand, and the newest version of CUDA that its driver knows."""
    gpu = Gpu.open()
    major, minor = map(int, gpu.capability.split("."))
    if (major, minor) < OLDEST:
        raise MissingError(
            f"--fused-scorer needs a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer, this one has"
            f" {gpu.capability}; leave it out"
        )
    version = int(gpu.call("cuDriverGetVersion"))  # 13010 for 13.1
    return (major, minor), (version // 1000, version % 1000 // 10)
