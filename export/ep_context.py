"""A plan in ONNX Runtime's form: an ONNX graph of one EPContext node that names the plan beside it.

ONNX Runtime's TensorRT providers and the C++ runtime load a plan through such a graph. Not yet run on a GPU: tests
cover the graph's form, and that an ONNX Runtime without the provider refuses it. Source: ONNX Runtime's "EP Context
Cache Feature Design", version 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import onnx
from onnx import helper

from ..bundle import CAPTIONS, IMAGES
from ..engines.profiles import Profile
from .targets import Target

_DOMAIN, _VERSION = "com.microsoft", 1
# Target → ONNX Runtime's provider for its plans.
_PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "tensorrt-rtx": "NvTensorRTRTXExecutionProvider"}


def ep_context_graph(target: Target, graph: Path, plan: str) -> onnx.ModelProto:
    """The graph for a plan that `target` built from the ONNX file `graph`, with its inputs, outputs and dynamic axes.

    plan: the plan's file name; ONNX Runtime requires both files in one folder.
    """
    source = onnx.load(graph, load_external_data=False)
    inputs, outputs = source.graph.input, source.graph.output
    node = helper.make_node(
        "EPContext",
        [tensor.name for tensor in inputs],
        [tensor.name for tensor in outputs],
        name=plan.removesuffix(".plan"),
        domain=_DOMAIN,
        main_context=1,
        embed_mode=0,  # ep_cache_context is a path, not the plan itself
        ep_cache_context=plan,
        ep_sdk_version=target.version,
        source=_PROVIDERS[target.name],
    )
    return helper.make_model(
        helper.make_graph([node], source.graph.name, inputs, outputs),
        ir_version=source.ir_version,
        opset_imports=[*source.opset_import, helper.make_opsetid(_DOMAIN, _VERSION)],
        producer_name="caan",
    )


def widest_first(profiles: Sequence[Profile]) -> list[Profile]:
    """A graph's profiles, sorted by item length, then by item count, largest first.

    ONNX Runtime uses only the first profile of a prebuilt engine; the Python runtime picks one per call.
    """

    def width(profile: Profile) -> tuple[int, int, int]:
        items = [size.max for axis, size in profile.axes.items() if axis in (IMAGES, CAPTIONS)]
        lengths = [size.max for axis, size in profile.axes.items() if axis not in (IMAGES, CAPTIONS)]
        return prod(lengths), prod(items), min(items)

    return sorted(profiles, key=width, reverse=True)
