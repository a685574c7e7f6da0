"""Backend `onnxruntime`: the bundle's ONNX graphs on the CPU, or on an NVIDIA GPU through the CUDA provider."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._machine import default_threads, has_nvidia_driver
from ..bundle import GRAPHS, MANIFEST, VOCABULARY, Bundle, graph_file, open_bundle, state_widths
from ..data.vocabulary import Vocabulary
from ..errors import BundleError, InputError, MissingError, needs

if TYPE_CHECKING:
    import onnxruntime as ort

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxBackend:
    """The three graphs as ONNX Runtime sessions. Thread-safe: sessions run concurrently."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, precision: str, device: str, threads: int | None) -> None:
        paths = {name: bundle.graph(name, precision) for name in GRAPHS}
        self.precision = precision
        self.config = bundle.config
        self.limits: dict[str, int] = bundle.manifest["limits"]
        self.vocabulary = Vocabulary.load(bundle.folder / VOCABULARY)
        self.encoders = {
            "image": bundle.hash_of(graph_file("image_encoder", precision)),
            "text": bundle.hash_of(graph_file("text_encoder", precision)),
        }
        self.device = _choose_device(device)
        try:
            self._sessions = {name: open_session(path, self.device, threads) for name, path in paths.items()}
        except MissingError:
            if device != "auto":
                raise
            # onnxruntime-gpu on a machine without a usable GPU: "auto" allowed the CPU.
            self.device = "cpu"
            self._sessions = {name: open_session(path, "cpu", threads) for name, path in paths.items()}
        self._check_sizes(bundle)

    @classmethod
    def open(cls, path: Path, precision: str, device: str, threads: int | None) -> OnnxBackend:
        if path.is_file():
            raise BundleError(f"{path} is a file, not a bundle; export it first: caan-export {path}")
        while True:
            bundle = open_bundle(path)
            try:
                backend = cls(bundle, precision, device, threads)
            except InputError:
                if bundle.is_current():
                    raise
            else:
                if bundle.is_current():
                    return backend
            # The bundle was replaced while its graphs were read: they may be of two models. Read them again.

    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._run("image_encoder", features=features)

    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._run("text_encoder", tokens=tokens, text_lengths=lengths)

    def score(
        self,
        image_states: NDArray[np.float32],
        image_lengths: NDArray[np.int64],
        text_states: NDArray[np.float32],
        text_lengths: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        return self._run(
            "scorer",
            image_states=image_states,
            image_lengths=image_lengths,
            text_states=text_states,
            text_lengths=text_lengths,
        )

    def _check_sizes(self, bundle: Bundle) -> None:
        """The manifest has no hash of its own: a size changed in it must not reach an array."""
        widths = state_widths(self.config)
        image, text = self._sessions["image_encoder"], self._sessions["text_encoder"]
        for value, size in (
            (image.get_inputs()[0], self.config["region_dim"]),
            (image.get_outputs()[0], widths["image"]),
            (text.get_outputs()[0], widths["text"]),
        ):
            if value.shape[-1] != size:
                raise BundleError(
                    f"{bundle.folder / MANIFEST} does not fit its graphs: {value.name} has {value.shape[-1]} columns,"
                    f" the config says {size}; export the checkpoint again"
                )
        rows = self.config["vocab_size"]
        if len(self.vocabulary) > rows:
            raise BundleError(
                f"{bundle.folder / VOCABULARY} has ids up to {len(self.vocabulary) - 1}, the embedding only {rows}"
                " rows; export the checkpoint again"
            )

    def _run(self, graph: str, **inputs: NDArray[Any]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = self._sessions[graph].run(None, inputs)[0]
        return output


def open_session(path: Path, device: str, threads: int | None) -> ort.InferenceSession:
    """An ONNX Runtime session on exactly this device.

    ONNX Runtime drops a provider that can't load without an error, so what the session really got is compared with
    what was asked for. Raises MissingError if the device is not usable, BundleError if the graph can't be loaded.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.log_severity_level = 3  # a dropped provider is reported by the check below, once
    wanted = _PROVIDERS[device]
    if wanted not in ort.get_available_providers():
        raise _no_cuda("this onnxruntime was built without it")
    try:
        session = ort.InferenceSession(path, options, providers=[wanted])
    except Exception as error:  # ONNX Runtime's exceptions have no common type of their own
        if device != "cpu":
            raise _no_cuda(str(error).splitlines()[0]) from error
        raise BundleError(f"ONNX Runtime {ort.__version__} can't load {path}: {error}") from error
    if wanted not in session.get_providers():
        raise _no_cuda(f"ONNX Runtime dropped {wanted}, its libraries or the GPU's driver did not load")
    return session


def _choose_device(device: str) -> str:
    if device != "auto":
        return device
    # The GPU package lists its CUDA provider on any machine, and complains loudly where there is no driver.
    usable = _PROVIDERS["cuda"] in _onnxruntime().get_available_providers() and has_nvidia_driver()
    return "cuda" if usable else "cpu"


def _no_cuda(reason: str) -> MissingError:
    return MissingError(
        f"the device 'cuda' can't be used: {reason}; see caan doctor, install caan-deploy[gpu] instead of [cpu], or use"
        " device 'cpu'"
    )


def _onnxruntime() -> Any:
    with needs("cpu", "the backend 'onnxruntime'"):
        import onnxruntime
    return onnxruntime
