"""caan from another language, by the example of Python's ctypes: the library alone, without the package caan.

    library = load("libcaan.so")
    retriever = Retriever(library, "model.caan")
    gallery = retriever.encode_images(features)            # (N, R, F) float
    retriever.search_many(["two dogs play"], gallery, 10)  # indices and scores, (captions, 10)

Python has its own runtime, caan.runtime. This shows what any language does with caan.h, and the tests use it.
"""

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

DTYPES = {"float16": 0, "float32": 1, "float64": 2}
Warn = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p)
Handle, Size = ctypes.c_void_p, ctypes.c_size_t


class CaanError(Exception):
    """What a function says that failed; `code` is the exit code of the commands."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Options(ctypes.Structure):
    """caan_options"""

    _fields_ = [
        ("struct_size", Size),
        ("backend", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("device", ctypes.c_char_p),
        ("threads", ctypes.c_int),
        ("workers", ctypes.c_int),
        ("tile_bytes", Size),
        ("warn", Warn),
        ("warn_context", ctypes.c_void_p),
        ("prebuilt_engines", ctypes.c_int),
        ("trust_engines", ctypes.c_int),
    ]


class Sketched(ctypes.Structure):
    """caan_sketched"""

    _fields_ = [("struct_size", Size), ("recall", ctypes.c_double), ("candidates", Size)]


class Found(ctypes.Structure):
    """caan_found"""

    _fields_ = [
        ("candidates", Size),
        ("recall", ctypes.c_double),
        ("low", ctypes.c_double),
        ("high", ctypes.c_double),
    ]


Hit = np.dtype([("index", np.int64), ("score", np.float32)], align=True)  # caan_hit


def load(path: str) -> ctypes.CDLL:
    """The library, each function that is used here with its types: ctypes takes all numbers for int otherwise."""
    library = ctypes.CDLL(path)
    captions, out = ctypes.POINTER(ctypes.c_char_p), ctypes.POINTER(Handle)
    encoded = [Handle, ctypes.c_void_p, ctypes.c_int, Size, Size, Size, ctypes.c_void_p, out]
    sketched = [ctypes.POINTER(Sketched), ctypes.c_void_p, ctypes.POINTER(Found)]
    tokens = [Handle, ctypes.c_char_p, ctypes.c_void_p, Size, ctypes.POINTER(Size)]
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "caan_options_init": (None, [ctypes.POINTER(Options)]),
        "caan_last_error": (ctypes.c_char_p, []),
        "caan_version": (ctypes.c_char_p, []),
        "caan_open": (ctypes.c_int, [ctypes.c_char_p, ctypes.POINTER(Options), out]),
        "caan_close": (None, [Handle]),
        "caan_backend": (ctypes.c_char_p, [Handle]),
        "caan_features_open": (ctypes.c_int, [ctypes.c_char_p, out]),
        "caan_features_close": (None, [Handle]),
        "caan_gallery_open": (ctypes.c_int, [ctypes.c_char_p, out]),
        "caan_gallery_close": (None, [Handle]),
        "caan_gallery_size": (Size, [Handle]),
        "caan_encode_images": (ctypes.c_int, encoded),
        "caan_encode_file": (ctypes.c_int, [Handle, Handle, ctypes.c_void_p, out]),
        "caan_encode_captions": (ctypes.c_int, [Handle, captions, Size, out]),
        "caan_search_many": (ctypes.c_int, [Handle, captions, Size, Handle, Size, ctypes.c_void_p]),
        "caan_search_gallery": (ctypes.c_int, [Handle, Handle, Handle, Size, ctypes.c_void_p]),
        "caan_search_many_sketched": (ctypes.c_int, [Handle, captions, Size, Handle, Size, *sketched]),
        "caan_search_gallery_sketched": (ctypes.c_int, [Handle, Handle, Handle, Size, *sketched]),
        "caan_score_matrix": (ctypes.c_int, [Handle, Handle, captions, Size, ctypes.c_void_p]),
        "caan_score_galleries": (ctypes.c_int, [Handle, Handle, Handle, ctypes.c_void_p]),
        "caan_tokenize": (ctypes.c_int, tokens),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Owned:
    """A handle, closed with this object."""

    def __init__(self, library: ctypes.CDLL, close: str) -> None:
        self.functions, self.handle, self._close = library, Handle(), getattr(library, close)

    def __del__(self) -> None:
        self._close(self.handle)

    def check(self, code: int) -> None:
        if code:
            raise CaanError(code, os.fsdecode(self.functions.caan_last_error()))


class Gallery(Owned):
    def __init__(self, library: ctypes.CDLL, folder: str | None = None) -> None:
        super().__init__(library, "caan_gallery_close")
        if folder is not None:
            self.check(library.caan_gallery_open(os.fsencode(folder), ctypes.byref(self.handle)))

    def __len__(self) -> int:
        return int(self.functions.caan_gallery_size(self.handle))


class Features(Owned):
    """An .npy file of features, memory-mapped."""

    def __init__(self, library: ctypes.CDLL, path: str) -> None:
        super().__init__(library, "caan_features_close")
        self.check(library.caan_features_open(os.fsencode(path), ctypes.byref(self.handle)))


class Retriever(Owned):
    def __init__(self, library: ctypes.CDLL, bundle: str, **options: Any) -> None:
        """options: fields of caan_options, text as str."""
        super().__init__(library, "caan_close")
        self.warnings: list[str] = []
        # A local function would be freed while the library still calls it.
        self._warn = Warn(lambda message, _: self.warnings.append(message.decode()))
        c_options = Options(warn=self._warn)
        c_options.struct_size = ctypes.sizeof(Options)
        for name, value in options.items():
            setattr(c_options, name, value.encode() if isinstance(value, str) else value)
        self.check(library.caan_open(os.fsencode(bundle), ctypes.byref(c_options), ctypes.byref(self.handle)))

    @property
    def backend(self) -> str:
        """What "auto" became: native, onnxruntime or tensorrt."""
        name: bytes = self.functions.caan_backend(self.handle)
        return name.decode()

    def encode_images(self, features: np.ndarray | Features, lengths: Sequence[int] | None = None) -> Gallery:
        gallery = Gallery(self.functions)
        counts = None if lengths is None else np.ascontiguousarray(lengths, np.int64)
        regions = None if counts is None else counts.ctypes.data
        if isinstance(features, Features):
            code = self.functions.caan_encode_file(self.handle, features.handle, regions, ctypes.byref(gallery.handle))
        else:
            values = np.ascontiguousarray(features)
            arguments = (values.ctypes.data, DTYPES[values.dtype.name], *values.shape, regions)
            code = self.functions.caan_encode_images(self.handle, *arguments, ctypes.byref(gallery.handle))
        self.check(code)
        return gallery

    def encode_captions(self, captions: Sequence[str]) -> Gallery:
        gallery = Gallery(self.functions)
        texts = _texts(captions)
        self.check(self.functions.caan_encode_captions(self.handle, texts, len(captions), ctypes.byref(gallery.handle)))
        return gallery

    def search_many(self, queries: Sequence[str] | Gallery, gallery: Gallery, k: int) -> np.ndarray:
        """(queries, k) of Hit"""
        hits = np.empty((len(queries), k), Hit)
        if isinstance(queries, Gallery):
            code = self.functions.caan_search_gallery(self.handle, queries.handle, gallery.handle, k, hits.ctypes.data)
        else:
            code = self.functions.caan_search_many(
                self.handle, _texts(queries), len(queries), gallery.handle, k, hits.ctypes.data
            )
        self.check(code)
        return hits

    def search_sketched(
        self, queries: Sequence[str] | Gallery, gallery: Gallery, k: int, recall: float = 0, candidates: int = 0
    ) -> tuple[np.ndarray, Found]:
        """(queries, k) of Hit, by the sketches of a gallery, and what that cost."""
        hits, found = np.empty((len(queries), k), Hit), Found()
        how = Sketched(ctypes.sizeof(Sketched), recall, candidates)
        rest = (gallery.handle, k, ctypes.byref(how), hits.ctypes.data, ctypes.byref(found))
        if isinstance(queries, Gallery):
            code = self.functions.caan_search_gallery_sketched(self.handle, queries.handle, *rest)
        else:
            code = self.functions.caan_search_many_sketched(self.handle, _texts(queries), len(queries), *rest)
        self.check(code)
        return hits, found

    def score_matrix(self, images: Gallery, captions: Sequence[str] | Gallery) -> np.ndarray:
        """(images, captions) float32"""
        scores = np.empty((len(images), len(captions)), np.float32)
        if isinstance(captions, Gallery):
            code = self.functions.caan_score_galleries(self.handle, images.handle, captions.handle, scores.ctypes.data)
        else:
            texts = _texts(captions)
            code = self.functions.caan_score_matrix(
                self.handle, images.handle, texts, len(captions), scores.ctypes.data
            )
        self.check(code)
        return scores

    def tokenize(self, caption: str) -> list[int]:
        count, text = Size(), _text(caption)
        self.check(self.functions.caan_tokenize(self.handle, text, None, 0, ctypes.byref(count)))
        ids = np.empty(count.value, np.int64)
        self.check(self.functions.caan_tokenize(self.handle, text, ids.ctypes.data, len(ids), ctypes.byref(count)))
        return ids.tolist()


def _text(caption: str) -> bytes:
    # Bytes that are not UTF-8 come back from where os.fsdecode put them.
    return caption.encode("utf-8", "surrogateescape")


def _texts(captions: Sequence[str]) -> Any:
    return (ctypes.c_char_p * len(captions))(*map(_text, captions))
