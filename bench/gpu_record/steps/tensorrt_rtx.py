"""TensorRT for RTX, from the kit's wheels: whether prebuilt plans load on this GPU and keep R@K."""

from __future__ import annotations

from importlib.util import find_spec
from typing import cast

import numpy as np

from ....bundle import GRAPHS, open_bundle, plan_file
from ....errors import CaanError, MissingError
from ..kit import use_wheels
from ..kit_model import Gates, kit_bundle, random_inputs
from ..plan import Put, StepSettings


def run(settings: StepSettings, put: Put) -> None:
    """One row for each plan, its scores and its gate. Raises MissingError without TensorRT for RTX or plans."""
    try:
        put("wheels", {"": ", ".join(use_wheels(settings, "tensorrt_rtx"))})
    except MissingError:
        if find_spec("tensorrt_rtx") is None:
            raise
    from ....engines.record import engine_records
    from ....engines.targets import installed_module, rtx_capabilities
    from ....runtime import Retriever
    from ....runtime.backends.tensorrt.choose_engine import this_machine
    from ....runtime.choices import Precision

    trt = installed_module("tensorrt-rtx")
    if trt is None:
        raise MissingError("TensorRT for RTX is installed, but its libraries do not load")

    here = this_machine()
    supported = ", ".join(rtx_capabilities(trt))
    put("TensorRT for RTX", {"": f"{trt.__version__}, for {supported}; this GPU has {here.capability}"})
    bundle = open_bundle(kit_bundle(settings))
    records = [record for record in engine_records(bundle) if record.target == "tensorrt-rtx"]
    if not records:
        raise MissingError(f"{bundle.folder} has no plans of TensorRT for RTX")
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    for record in records:
        for graph in GRAPHS:
            loaded = runtime.deserialize_cuda_engine((bundle.folder / plan_file(graph, record.name)).read_bytes())
            put(f"{record.name} {graph}", {"": "does not load" if loaded is None else "loads"})
        try:
            engine = Retriever.open(bundle.folder, "tensorrt", cast(Precision, record.precision))
            graphs = Retriever.open(bundle.folder, "onnxruntime", device="cpu")
            inputs = random_inputs(settings, graphs)
            worst = float(np.abs(engine.score_dataset(*inputs) - graphs.score_dataset(*inputs)).max())
            put(f"{record.name} like ONNX Runtime", {"ok": worst <= 1e-2, "max |Δ score|": worst})
            put(f"{record.name} gate", Gates(settings).row(record.precision, "tensorrt", "auto"))
        except CaanError as error:
            put(record.name, {"": str(error)})
