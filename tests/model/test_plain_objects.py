"""Hostile pickles in checkpoints: nothing is imported or executed; classes are plain data, calls are refused."""

import os
import subprocess
import zipfile
from argparse import Namespace
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch

from caan.errors import CheckpointError
from caan.model.checkpoint import read_archive


class Calls:
    """Unpickled freely, it would call a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class SetsState:
    """Unpickled freely, it would make a file."""

    def __init__(self, marker):
        self.marker = marker

    def __setstate__(self, state):
        open(state["marker"], "w").close()  # noqa: PTH123

    def __setitem__(self, key, value):
        raise AssertionError("called")


@pytest.fixture
def read(tmp_path):
    """read(content): what a file with this content holds."""

    def call(content, zipped=True):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        return read_archive(tmp_path / "a.pt")

    return call


@pytest.fixture
def read_pickle(tmp_path):
    """read_pickle(opcodes): what a torch.save archive with this pickle holds."""

    def call(pickled):
        torch.save({}, tmp_path / "old.pt")
        with zipfile.ZipFile(tmp_path / "old.pt") as old, zipfile.ZipFile(tmp_path / "a.pt", "w") as new:
            for part in old.infolist():
                new.writestr(part.filename, pickled if part.filename.endswith("data.pkl") else old.read(part))
        return read_archive(tmp_path / "a.pt")

    return call


CALLS = {
    "os.system": lambda marker: Calls(os.system, f"touch {marker}"),
    "eval": lambda marker: Calls(eval, f"open({str(marker)!r}, 'w')"),
    "Popen": lambda marker: Calls(subprocess.Popen, ["touch", str(marker)]),
    "partial": lambda marker: partial(open, str(marker), "w"),
    "getattr": lambda marker: Calls(getattr, Namespace(a=1), "a"),
    "numpy.load": lambda marker: Calls(np.load, str(marker)),
    "torch.load": lambda marker: Calls(torch.load, str(marker)),
    "OrderedDict of a call": lambda marker: OrderedDict(a=Calls(os.mkdir, str(marker))),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_refused_by_name(read, tmp_path, name, zipped):
    with pytest.raises(CheckpointError, match=r"holds code or objects \([\w.]+\), which are never executed"):
        read({"opt": CALLS[name](tmp_path / "marker")}, zipped)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_an_object_is_its_attributes(read, tmp_path, zipped):
    """Its class is not even imported: __setstate__ would make the file."""
    (opt,) = read({"opt": SetsState(tmp_path / "marker")}, zipped).values()
    assert type(opt) is OrderedDict and vars(opt) == {"marker": (tmp_path / "marker").as_posix()}
    assert not (tmp_path / "marker").exists()


def test_an_array_of_objects_is_refused(read):
    with pytest.raises(CheckpointError, match=r"can't be loaded: it holds code or objects \(numpy"):
        read({"opt": np.array([print, {}], dtype=object)})


HEAD = b"\x80\x02"
SCALAR = b"cnumpy.core.multiarray\nscalar\n("
PICKLES = {
    "a scalar of objects": SCALAR + b"cnumpy\ndtype\n(X\x01\x00\x00\x00O\x89\x88tRX\x01\x00\x00\x00atR.",
    "a scalar of another's dtype": SCALAR + b"X\x01\x00\x00\x00fX\x01\x00\x00\x00atR.",
    "a scalar without content": SCALAR + b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8\x89\x88tRtR.",
    "a dtype that is none": SCALAR + b"cnumpy\ndtype\n(X\x02\x00\x00\x00zz\x89\x88tRX\x01\x00\x00\x00atR.",
    "attributes of a stand-in": b"csome.module\nThing\n}X\x08\x00\x00\x00__call__Nsb.",
    "items of a stand-in": b"csome.module\nThing\nX\x01\x00\x00\x00aNs.",
    "a class called": b"csome.module\nThing\n)R.",
    "builtins of Python 2": b"c__builtin__\neval\n(X\x01\x00\x00\x001tR.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_handmade_pickle(read_pickle, name):
    with pytest.raises(CheckpointError, match=r"a\.pt can't be loaded|not a checkpoint dictionary"):
        read_pickle(HEAD + PICKLES[name])


def test_a_pickle_of_many_classes(read_pickle):
    classes = b"".join(f"cmodule\nname{number}\n0".encode() for number in range(300))
    with pytest.raises(CheckpointError, match=r"can't be loaded: it holds code or objects \(300 classes"):
        read_pickle(HEAD + classes + b"}.")


def test_stand_ins_leave_no_trace(read):
    """The allow-list that PyTorch keeps for the process is as before."""
    before = set(torch.serialization.get_safe_globals())
    read({"opt": Namespace(a=1)})
    assert set(torch.serialization.get_safe_globals()) == before
