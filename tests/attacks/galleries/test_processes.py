"""Retrievers and galleries in other processes: pickled or forked."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from caan.errors import BundleError, InputError
from caan.runtime import Gallery, Retriever
from caan.runtime.index import delete_items
from tests.attacks.galleries.conftest import IMAGES

METHODS = [name for name in ("spawn", "forkserver", "fork") if name in multiprocessing.get_all_start_methods()]
has_native = find_spec("caan_native") is not None
needs_native = pytest.mark.skipif(not has_native, reason="needs caan-native; make native builds it")
BACKENDS = ["onnxruntime", pytest.param("native", marks=needs_native)]


def search(retriever, gallery):
    return [(hit.index, round(hit.score, 4)) for hit in retriever.search("w1 w2", gallery, 3)]


def sent(what):
    return pickle.loads(pickle.dumps(what))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_sent_to_a_process_however_it_is_started(tiny_folder, features, gallery, method, backend, monkeypatch):
    monkeypatch.chdir(tiny_folder)
    retriever = Retriever.open("model.caan", backend, threads=2)
    monkeypatch.chdir(gallery.parent)
    opened = [Gallery.open("gallery"), Gallery.open("gallery", storage="memory"), retriever.encode_images(features)]
    expected = [retriever.search("w1 w2", some, 3) for some in opened]
    monkeypatch.chdir("/")
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        actual = [pool.submit(Retriever.search, retriever, "w1 w2", some, 3).result(timeout=120) for some in opened]
    for hits, others in zip(actual, expected, strict=True):
        assert [hit.index for hit in hits] == [hit.index for hit in others]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in others], abs=1e-6)


def test_a_gallery_is_sent_as_its_folder(gallery, retriever):
    opened = Gallery.open(gallery)
    assert len(pickle.dumps(opened)) < 1000
    again = sent(opened)
    assert isinstance(again.states, np.memmap) and again.ids == opened.ids
    assert sent(Gallery.open(gallery, storage="memory")).check.storage == "memory"
    with pytest.raises(ValueError, match="read-only"):
        sent(retriever.encode_captions(["w1"])).states[0] = 0


@pytest.mark.parametrize("number", [0, 1, 100, 128, 129])
def test_the_first_items_and_the_deleted_ones_arrive_as_such(gallery, retriever, number):
    delete_items(gallery, ["3.jpg", "150.jpg"])
    opened = Gallery.open(gallery)
    for some in (opened.first(number), replace(opened, deleted=np.arange(IMAGES) % 2 == 0)):
        again = sent(some)
        assert len(again) == len(some) and again.live.tolist() == some.live.tolist() and again.ids == some.ids
        assert (again.offsets == some.offsets).all() and (np.asarray(again.states) == np.asarray(some.states)).all()


def test_a_gallery_that_has_grown_meanwhile_arrives_as_it_was(gallery, index, features, retriever):
    opened = Gallery.open(gallery)
    expected, content = search(retriever, opened), pickle.dumps(opened)
    index(features[:20], append=True, first=IMAGES)
    delete_items(gallery, ["7.jpg"])
    again = pickle.loads(content)
    assert len(again.live) == IMAGES and search(retriever, again) == expected


def test_a_gallery_that_was_replaced_meanwhile_does_not_arrive(gallery, index, features):
    content = pickle.dumps(Gallery.open(gallery))
    index(features + 1, overwrite=True)
    with pytest.raises(BundleError, match="was replaced since the process that sent this gallery opened it"):
        pickle.loads(content)


def test_options_are_sent_too(tiny_folder):
    retriever = Retriever.open(tiny_folder / "model.caan", "onnxruntime", device="cpu", threads=3, tile_bytes=1 << 20)
    again = sent(retriever)
    assert again.tile_bytes == 1 << 20 and again.backend.layouts == retriever.backend.layouts
    with pytest.raises(InputError, match=r"made from a backend can't be sent .* Retriever\.open"):
        pickle.dumps(Retriever(retriever.backend))


FORKED = """
import os, sys, time
import numpy as np
from caan.errors import InputError
from caan.runtime import Gallery, Retriever
path, gallery, backend, ending = sys.argv[1:]
retriever = Retriever.open(path, backend, threads=4)
opened = Gallery.open(gallery) if gallery else retriever.encode_images(np.zeros((3, 5, 12), np.float32))
captions = [f"w{number % 20} w{number % 7}" for number in range(300)]
expected = retriever.score_matrix(opened, captions)
child = os.fork()
if child == 0:
    try:
        found = retriever.score_matrix(opened, captions)
        print("same" if np.abs(found - expected).max() < 1e-5 else "other", flush=True)
        features = np.ones((5, 12), np.float32)
        retriever.encode_images(features[None])
        if backend != "torch":
            retriever.explain(features, "w1 w2")
    except InputError as error:
        print(error, flush=True)
    os._exit(0) if ending == "_exit" else sys.exit(0)
for _ in range(600):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    time.sleep(0.1)
else:
    os.kill(child, 9)
    status = "hangs"
found = retriever.score_matrix(opened, captions)
print(status, np.abs(found - expected).max() < 1e-5)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("ending", ["exit", "_exit"])
@pytest.mark.parametrize("backend", [*BACKENDS, "torch"])
def test_a_forked_process_works_or_gets_an_error(tiny_folder, gallery, backend, ending):
    arguments = [tiny_folder / "model.caan", gallery, backend, ending]
    if backend == "torch":
        arguments = [tiny_folder / "model.pt", "", backend, "_exit"]
    command = [sys.executable, "-c", FORKED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    says = "this process was forked and can't use PyTorch as its parent does; open the model again"
    assert done.stdout == f"{says if backend == 'torch' else 'same'}\n0 True\n", done


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_amid_searches_of_other_threads(tiny_folder, gallery):
    """Threads missing in the child may hold locks at that moment."""
    code = FORKED.replace(
        "child = os.fork()",
        "import threading\n"
        "stop = threading.Event()\n"
        "def go():\n"
        "    while not stop.is_set():\n"
        "        retriever.search('w1', opened, 3)\n"
        "threads = [threading.Thread(target=go, daemon=True) for _ in range(4)]\n"
        "[thread.start() for thread in threads]\n"
        "time.sleep(0.3)\n"
        "child = os.fork()",
    ).replace("for _ in range(600)", "stop.set()\nfor _ in range(600)")
    command = [sys.executable, "-c", code, tiny_folder / "model.caan", gallery, "onnxruntime", "_exit"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.stdout == "same\n0 True\n", done
