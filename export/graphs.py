"""CAAN → ONNX graphs with all axes dynamic except the feature dimensions: three per precision, and two FP32 ones.

image_encoder   features (images, regions, F) float32                     → image_states (images, regions, 2D+3d)
text_encoder    tokens (captions, words) int64, text_lengths (captions,)  → text_states (captions, words, D+3d)
scorer          both states and both lengths                              → scores (images, captions)
explainer       the scorer's inputs                                       → scores and H, Hu, Hv, av, au
expander        regions (images, regions, D) float32                      → image_states (images, regions, 2D+3d)
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from ..bundle import CAPTIONS, EXPANDER, EXPLAINER, IMAGES, REGIONS, WORDS
from ..errors import ExportError
from ..model.caan import CAAN
from .recurrence import whole_recurrence

OPSET = 18
TRY_VERSIONS = "Try the versions in constraints.txt: in a checkout of caan, pip install -c constraints.txt '.[export]'"

# Sizes of the traced example: all different, so that no axis is mistaken for another, and none 1, which would be baked
# in.
_EXAMPLE = {IMAGES: 3, REGIONS: 7, CAPTIONS: 4, WORDS: 6}

_NORM = ("Pow", "ReduceSum", "Clip", "Sqrt", "Div")  # ops of l2norm, in this order

# Op type → names of its nodes in trace order. A product is named for what it computes, with t for a transpose; `A_Hu`
# is A (Aᵀ V Q2) + Hu (U Q3).
_NODE_NAMES: dict[str, dict[str, list[str]]] = {
    "image_encoder": {"MatMul": ["XW", "VK", "VQ1", "VQ2", "VQ6"], **{op: [f"norm_V_{op}"] for op in _NORM}},
    "text_encoder": {
        "GRU": ["gru_forward", "gru_backward"],
        "MatMul": ["UQ3", "UQ4", "UQ5"],
        **{op: [f"norm_U_{op}"] for op in _NORM if op != "Div"},
        "Div": ["mean_directions", "norm_U_Div"],
    },
    "scorer": {
        "MatMul": ["H", "At_VQ2", "A_Hu", "Su", "Su_UQ5", "Hvt_VQ6", "Zv_wv", "Zu_wu", "av_V", "au_U"],
        "Tanh": ["tanh_H", "tanh_Zv", "tanh_Zu"],
        "Softmax": ["softmax_Hu", "softmax_Hv", "softmax_av", "softmax_au"],
        "Where": ["mask_Hu", "mask_Hv", "mask_av", "mask_au"],
        **{op: [f"norm_A_{op}", f"norm_B_{op}"] for op in _NORM if op != "ReduceSum"},
        "ReduceSum": ["norm_A_ReduceSum", "norm_B_ReduceSum", "score_ReduceSum"],
    },
}
_NODE_NAMES[EXPLAINER] = _NODE_NAMES["scorer"]
_NODE_NAMES[EXPANDER] = {"MatMul": _NODE_NAMES["image_encoder"]["MatMul"][1:]}

# Graph → the larger one that contains it.
_CUT_FROM = {"scorer": EXPLAINER, EXPANDER: "image_encoder"}


@dataclass(frozen=True)
class GraphSpec:
    """One graph's function, and the names of its tensors and dynamic axes."""

    name: str
    compute: Callable[..., Tensor | tuple[Tensor, ...]]
    inputs: dict[str, tuple[str, ...]]  # input → names of its leading, dynamic axes
    outputs: dict[str, tuple[str, ...]]  # output → the same, in the order of `compute`'s results


def graph_specs(model: CAAN) -> list[GraphSpec]:
    """The graphs of a model: the three of every precision, then the FP32-only ones."""
    images, captions, pairs = (IMAGES, REGIONS), (CAPTIONS, WORDS), (IMAGES, CAPTIONS)
    tokens = {"tokens": captions, "text_lengths": (CAPTIONS,)}
    states = {
        "image_states": images,
        "image_lengths": (IMAGES,),
        "text_states": captions,
        "text_lengths": (CAPTIONS,),
    }
    alignments = dict.fromkeys(("H", "Hu", "Hv"), (*pairs, REGIONS, WORDS))
    explained = {"scores": pairs, **alignments, "av": (*pairs, REGIONS), "au": (*pairs, WORDS)}
    return [
        GraphSpec("image_encoder", model.image_states, {"features": images}, {"image_states": images}),
        GraphSpec("text_encoder", model.text_states, tokens, {"text_states": captions}),
        GraphSpec("scorer", model.score_states, states, {"scores": pairs}),
        GraphSpec(EXPLAINER, model.explain_states, states, explained),
        GraphSpec(EXPANDER, model.expand_regions, {"regions": images}, {"image_states": images}),
    ]


def export_graphs(model: CAAN) -> Iterator[tuple[GraphSpec, onnx.ModelProto]]:
    """The graphs of a model in the order of `graph_specs`, each as `export_graph` makes it; raises as that.

    Tracing takes seconds: the explainer, which computes scores too, and the image encoder, whose last step is the
    expander, are traced once and the other two graphs cut out of them.
    """
    specs = {spec.name: spec for spec in graph_specs(model)}
    traced: dict[str, onnx.ModelProto] = {}
    for name, spec in specs.items():
        whole = _CUT_FROM.get(name, name)
        if whole not in traced:
            traced[whole] = export_graph(specs[whole], model)
        yield spec, traced[name] if name in traced else _cut(traced[whole], spec, model)


def _cut(whole: onnx.ModelProto, spec: GraphSpec, model: CAAN) -> onnx.ModelProto:
    """The part of a larger graph that computes the outputs of `spec`."""
    part = onnx.ModelProto(**{field.name: value for field, value in whole.ListFields() if field.name != "graph"})
    graph, begins = part.graph, {}
    if spec.name == EXPANDER:  # begins within the image encoder
        normalized = next(node.output[0] for node in whole.graph.node if node.name == "image_encoder/norm_V_Div")
        begins[normalized] = "regions"
        shape: list[str | int] = [*spec.inputs["regions"], model.config.embed_dim]
        graph.input.append(onnx.helper.make_tensor_value_info("regions", onnx.TensorProto.FLOAT, shape))
    needed, nodes = set(spec.outputs), []
    for node in reversed(whole.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(begins.get(name, name) for name in node.input)
    graph.node.extend(reversed(nodes))
    for node in graph.node:
        node.input[:] = [begins.get(name, name) for name in node.input]
    graph.initializer.extend(value for value in whole.graph.initializer if value.name in needed)
    graph.input.extend(value for value in whole.graph.input if value.name in spec.inputs)
    graph.output.extend(value for value in whole.graph.output if value.name in spec.outputs)
    graph.name = f"caan_{spec.name}"
    _name_nodes(part, spec.name)
    return part


def export_graph(spec: GraphSpec, model: CAAN) -> onnx.ModelProto:
    """Trace one graph and return it as ONNX, opset 18, weights included.

    Raises ExportError if this PyTorch's exporter fails.
    """
    example = random_inputs(spec, model, _EXAMPLE, torch.Generator().manual_seed(0))
    axes = tuple({n: torch.export.Dim(axis) for n, axis in enumerate(names)} for names in spec.inputs.values())
    with _quiet(), whole_recurrence(model.text_encoder) as translations:
        try:
            program = torch.onnx.export(
                _Function(spec.compute, model),
                tuple(example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(example),
                output_names=list(spec.outputs),
                dynamic_shapes=(axes,),  # one *args parameter
                custom_translation_table=translations,
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, ImportError, TypeError, AttributeError) as error:
            raise ExportError(
                f"PyTorch {torch.__version__} can't export the {spec.name} graph"
                f" ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). {TRY_VERSIONS}"
            ) from error
        assert program is not None
        # Fold the reordering of the GRU's large gate weights, which the exporter would leave to each session's start.
        optimizer.optimize_ir(program.model, input_size_limit=sys.maxsize, output_size_limit=sys.maxsize)
    graph: onnx.ModelProto = program.model_proto
    graph.graph.name = f"caan_{spec.name}"
    _name_nodes(graph, spec.name)
    # The exporter derives the outputs' axes from the trace and bakes some in; use the inputs' axes instead.
    for output in graph.graph.output:
        for dimension, axis in zip(output.type.tensor_type.shape.dim, spec.outputs[output.name], strict=False):
            dimension.dim_param = axis
    # The same holds for intermediate values, which every tool infers anyway.
    del graph.graph.value_info[:]
    # Stack traces hold the exporter's paths and would make the graph's hash depend on the machine.
    for traced in (graph, graph.graph, *graph.graph.node, *graph.graph.input, *graph.graph.output):
        del traced.metadata_props[:]
    return graph


def random_inputs(spec: GraphSpec, model: CAAN, sizes: dict[str, int], generator: torch.Generator) -> dict[str, Tensor]:
    """Random inputs of these sizes; unequal lengths, the first full, the last 1; states from the encoders."""
    N, R, M, T = (sizes[axis] for axis in (IMAGES, REGIONS, CAPTIONS, WORDS))

    def lengths(items: int, longest: int) -> Tensor:
        result = torch.randint(1, longest + 1, (items,), generator=generator)
        result[-1], result[0] = 1, longest
        return result

    features = torch.randn(N, R, model.config.region_dim, generator=generator)
    tokens = torch.randint(0, model.config.vocab_size, (M, T), generator=generator)
    image_lengths, text_lengths = lengths(N, R), lengths(M, T)
    with torch.no_grad():
        regions = model.image_encoder(features)
        tensors = {
            "features": features,
            "tokens": tokens,
            "image_lengths": image_lengths,
            "text_lengths": text_lengths,
            "regions": regions,
            "image_states": model.expand_regions(regions),
            "text_states": model.text_states(tokens, text_lengths),
        }
    return {name: tensors[name] for name in spec.inputs}


def _name_nodes(graph: onnx.ModelProto, name: str) -> None:
    """Name nodes after docs/model.md's equations, for reports and options: `scorer/Su`, not `node_12`.

    The n-th node of an op type gets the n-th name; if their counts differ, the exporter's names stay.
    """
    known = _NODE_NAMES[name]
    by_type: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.graph.node:
        by_type.setdefault(node.op_type, []).append(node)
    for op_type, nodes in by_type.items():
        names = known.get(op_type, [])
        for number, node in enumerate(nodes):
            suffix = names[number] if len(names) == len(nodes) else node.name.rpartition("/")[2].removeprefix("node_")
            node.name = f"{name}/{suffix}"


class _Function(nn.Module):
    """A method of the model as a module with the model's parameters, as the exporter requires."""

    def __init__(self, compute: Callable[..., Tensor | tuple[Tensor, ...]], model: CAAN) -> None:
        super().__init__()
        self.model = model
        self.compute = compute

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.compute(*inputs)


class _quiet(warnings.catch_warnings):  # noqa: N801
    """Silence the exporter's remarks about optional packages; real failures raise."""

    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.simplefilter("ignore")
        for name in ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir"):
            logging.getLogger(name).setLevel(logging.ERROR)
        return result
