"""The tables of docs/architecture.md name the very fields of the declared formats: none more, none fewer."""

import re
from pathlib import Path

import pytest

from caan import manifest
from caan.engines.record import EngineOptions, EngineRecord, ProfileRecord, ShapeRange
from caan.runtime.galleries.description import Block, Description, Part

PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
MANIFEST, PRECISION, ENGINE, GALLERY = (
    "\n`manifest.json`:\n",
    "\nA precision's record:\n",
    "\n### Engine record\n",
    "\n`gallery.json`:\n",
)
TABLES = {
    MANIFEST: {*manifest.Manifest.__struct_fields__},
    PRECISION: {*manifest.PrecisionRecord.__struct_fields__},
    ENGINE: {*EngineRecord.__struct_fields__} - {"name"},  # the entry's key
    GALLERY: {*Description.__struct_fields__, "format", "version", "checksum"},
}
ROWS = [
    (MANIFEST, "config", [manifest.ModelConfig]),
    (MANIFEST, "limits", [manifest.ItemLimits]),
    (MANIFEST, "checkpoint", [manifest.CheckpointRecord]),
    (MANIFEST, "files", [manifest.FileEntry]),
    (PRECISION, "checks", [manifest.CheckRecord]),
    (PRECISION, "nodes", [manifest.GraphNodes]),
    (PRECISION, "calibration", [manifest.CalibrationRecord]),
    (PRECISION, "sensitivity", [manifest.NodeCostRecord]),
    (ENGINE, "options", [EngineOptions]),
    (ENGINE, "profiles", [ProfileRecord, ShapeRange]),
    (GALLERY, "blocks", [Block]),
    (GALLERY, "lengths", [Part]),
]


def rows(table):
    """(field names, meaning) of each row of the first table below a line."""
    below = PAGE.partition(table)[2]
    lines = re.search(r"\n\|---\|---\|---\|\n((?:\|.*\|\n)+)", below)[1].splitlines()
    cells = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines]
    return [(names(first), meaning) for first, _, meaning in cells]


def names(text):
    return set(re.findall(r"`(\w+)`", text))


@pytest.mark.parametrize("table", TABLES, ids=str.strip)
def test_a_table_has_a_row_for_every_field(table):
    assert set().union(*(fields for fields, _ in rows(table))) == TABLES[table]


@pytest.mark.parametrize(("table", "field", "structs"), ROWS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_row_names_every_inner_field(table, field, structs):
    (meaning,) = [meaning for fields, meaning in rows(table) if field in fields]
    assert names(meaning) == {name for struct in structs for name in struct.__struct_fields__}
