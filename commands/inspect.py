"""`caan inspect`: the contents of a bundle, a gallery or a checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..bundle import GRAPHS, graph_file
from ..errors import BundleError, MissingError, needs
from . import options
from .output import show, show_json, show_styled


@click.command(epilog=options.EXIT_CODES)
@click.argument("bundle", type=options.PATH, required=False, metavar="[BUNDLE|GALLERY|CHECKPOINT]")
@click.option("--layers", type=click.Choice(GRAPHS), help="Instead: the nodes of this graph and their types.")
@click.option("--precision", help="For --layers: a precision of the bundle.  [default: fp32]")
@options.trust_engines
@options.scan_family
@options.as_json
def inspect(
    bundle: Path | None, layers: str | None, precision: str | None, trust_engines: bool, as_json: bool, **scan: Any
) -> None:
    """Show the contents of BUNDLE: files, graphs, precisions, engines, and checks.

    BUNDLE defaults to the only *.caan of the current folder. For a GALLERY: its items, states, bundle, and the disk
    space of deleted items. For a CHECKPOINT: its sizes, and where each setting came from.
    """
    from .._files.ownership import kind_of
    from ..bundle import find_bundle
    from ..export.describe import describe
    from .inspect_text import summary_text

    if precision is not None and layers is None:
        raise click.UsageError("--precision belongs to --layers GRAPH; the summary shows every precision")
    path = find_bundle(bundle, Path())
    if path.is_file():
        if layers is not None:
            raise click.UsageError(f"--layers is for bundles, and {path} is a file; leave it out")
        _show_checkpoint(path, scan, as_json)
        return
    if kind_of(path) == "gallery":
        if layers is not None:
            raise click.UsageError(f"--layers is for bundles, and {path} is a gallery; leave it out")
        _show_gallery(path, as_json)
        return
    if layers is not None:
        _show_layers(path, layers, precision or "fp32", as_json, trust_engines)
        return
    description = describe(path)
    if as_json:
        show_json(description.as_dict())
    else:
        show_styled(summary_text(description))


def _show_gallery(path: Path, as_json: bool) -> None:
    from .inspect_gallery import describe_gallery, gallery_text

    description = describe_gallery(path)
    if as_json:
        show_json(description)
    else:
        show_styled(gallery_text(description))


def _show_checkpoint(path: Path, scan: dict[str, Any], as_json: bool) -> None:
    options.check_scan_files(**scan)
    with needs("export", "caan inspect of a checkpoint"):
        from ..model.checkpoint import ScanOptions
        from ..model.summary import summary_of
    from .inspect_text import checkpoint_text

    summary = summary_of(path, ScanOptions(**scan))
    if as_json:
        show_json(summary.as_dict())
    else:
        show_styled(checkpoint_text(summary))


def _show_layers(path: Path, graph: str, precision: str, as_json: bool, trust_engines: bool) -> None:
    """The nodes of the ONNX graph, and the fused TensorRT layers if an engine can be loaded."""
    from ..export.describe import describe_layers
    from ..export.engine_layers import engine_layers
    from .inspect_text import layers_text

    nodes, engine, reason = describe_layers(path, graph, precision), None, None
    try:
        engine = engine_layers(path, graph, precision, trust_engines=trust_engines)
    except (BundleError, MissingError) as error:
        reason = str(error)
    if as_json:
        content = {
            "bundle": str(path),
            "graph": graph,
            "precision": precision,
            "layers": [asdict(node) for node in nodes],
            "engine": engine and {"plan": engine[0], "layers": [asdict(layer) for layer in engine[1]]},
            "engine_not_inspected": reason,
        }
        show_json(content)
        return
    show_styled(layers_text(f"{path / graph_file(graph, precision)}: {len(nodes)} nodes", nodes))
    if engine is not None:
        plan, fused = engine
        show_styled("\n" + layers_text(f"{path / plan}: {len(fused)} layers", fused))
    elif reason is not None:
        show(f"\nengine not inspected: {reason}")
