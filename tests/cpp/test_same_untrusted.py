"""Untrusted files in both runtimes: the same are refused, with the same message and exit code."""

import json
import os
import shutil

import pytest

from caan.bundle import write_manifest
from tests.attacks.untrusted.altered_graphs import CASES, GRAPH, altered
from tests.attacks.untrusted.test_foreign_galleries import (
    DESCRIPTIONS,
    IDS,
    gallery,  # noqa: F401
    retriever,  # noqa: F401
    with_description,
    with_ids,
)
from tests.attacks.untrusted.test_linked_bundles import linked  # noqa: F401
from tests.cpp.test_same_refusals import outcomes  # noqa: F401


@pytest.mark.parametrize("name", CASES)
def test_altered_graphs(outcomes, tiny_bundle, name):  # noqa: F811
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    (tiny_bundle / GRAPH).write_bytes(altered((tiny_bundle / GRAPH).read_bytes(), CASES[name][0]))
    write_manifest(tiny_bundle, manifest)
    expected, actual = outcomes(tiny_bundle)
    assert actual == expected and expected[0] == 2 and all(text in expected[1] for text in CASES[name][1])


def test_a_bundle_of_links(outcomes, linked):  # noqa: F811
    assert outcomes(linked) == [(0, None), (0, None)]


@pytest.mark.parametrize("name", ["vocab.json", GRAPH])
def test_a_link_to_other_content(outcomes, linked, name):  # noqa: F811
    blob = (linked / name).resolve()
    content = bytearray(blob.read_bytes())
    content[-2] ^= 1
    blob.write_bytes(content)
    expected, actual = outcomes(linked)
    assert actual == expected and name in expected[1] and "was changed" in expected[1]


@pytest.mark.parametrize("name", ["manifest.json", "vocab.json", GRAPH])
def test_a_pipe_in_a_bundle(outcomes, tiny_bundle, name):  # noqa: F811
    (tiny_bundle / name).unlink()
    os.mkfifo(tiny_bundle / name)
    expected, actual = outcomes(tiny_bundle)
    assert actual == expected and expected[0] == 2


@pytest.mark.parametrize("kind", [*IDS, "twice"])
def test_ids_that_are_not_text(outcomes, tiny_folder, gallery, kind):  # noqa: F811
    with_ids(gallery, IDS.get(kind, b'"a"\n"b"\n"a"\n'))
    expected, actual = outcomes(tiny_folder / "model.caan", gallery)
    assert actual == expected and expected[0] == 2


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_an_altered_description(outcomes, tiny_folder, gallery, kind):  # noqa: F811
    opens = with_description(gallery, kind)
    expected, actual = outcomes(tiny_folder / "model.caan", gallery)
    assert actual == expected and expected[0] == (0 if opens else 2)


@pytest.mark.parametrize("name", ["gallery.json", "states.bin", "lengths.bin", "ids.jsonl"])
def test_a_pipe_in_a_gallery(outcomes, tiny_folder, gallery, name):  # noqa: F811
    (gallery / name).unlink()
    os.mkfifo(gallery / name)
    expected, actual = outcomes(tiny_folder / "model.caan", gallery)
    assert actual == expected and expected[0] == 2
    shutil.rmtree(gallery)
