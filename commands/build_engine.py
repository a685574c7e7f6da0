"""`caan build-engine`: a precision of a bundle, gated, as TensorRT engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import needs
from . import options
from .output import log, show

if TYPE_CHECKING:
    from ..export.engine_from_bundle import EngineReport

# Options that the library's call takes by the same name.
_AS_NAMED = (
    "keep_fp32",
    "data",
    "split",
    "limit",
    "checkpoint",
    "gate_rsum",
    "gate_score",
    "keep_failed",
    "calibration_data",
    "calibration_split",
    "calibration_method",
    "seed",
    "sensitivity",
)


class _Command(click.Command):
    """`--int8` may stand alone: it must not swallow the bundle that follows it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--int8=all" if arg == "--int8" else arg for arg in args])


@click.command("build-engine", cls=_Command, epilog=options.EXIT_CODES)
@options.bundle
@click.option("--fp16", is_flag=True, help="FP16, with FP32 islands where the numbers need them.")
@click.option(
    "--int8",
    type=click.Choice(["all", "auto"]),
    metavar="[=auto]",
    help="INT8 products, the rest FP16. auto: take the most harmful back to FP16 until the gate holds.",
)
@click.option("--fp32", is_flag=True, help="The graphs as they were exported.")
@click.option("--calibration-data", type=options.PATH, metavar="DIR", help="A data set in SCAN's format, for INT8.")
@click.option("--calibration-split", default="train", show_default=True, help="Its split.")
@click.option("--calibration-method", default="min-max", show_default=True, help="Or entropy, percentile, mse.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the calibration's pairs.")
@click.option("--sensitivity", is_flag=True, help="Measure what each node alone costs in INT8.")
@click.option(
    "--keep-fp32", multiple=True, metavar="NAME|REGEX", help="Nodes that stay FP32, as scorer/Su; repeatable."
)
@click.option(
    "--data",
    type=options.PATH,
    metavar="DIR",
    help="What the accuracy gate runs on.  [default: the calibration data's test or dev split, or what is left]",
)
@options.split
@options.limit
@options.checkpoint
@click.option("--gate-rsum", type=click.FloatRange(min=0), help="Allowed |Δ rsum|.  [default: FP16 0.5, INT8 2]")
@click.option("--gate-score", type=click.FloatRange(min=0), help="Allowed |Δ score|.  [default: FP32 1e-4]")
@click.option("--keep-failed", is_flag=True, help="Keep a precision that fails its gate, marked as failed.")
@click.option("--target", help="tensorrt or tensorrt-rtx.  [default: tensorrt where it and a GPU are, else -rtx]")
@click.option("--profile", multiple=True, metavar="GRAPH:NAME:AXIS=MIN/OPT/MAX,…", help="Instead of a graph's own.")
@click.option("--compute-capability", multiple=True, metavar="X.Y", help="Build ahead for this GPU; repeatable.")
@click.option("--optimization-level", type=click.IntRange(0, 5), default=3, show_default=True, help="Of the builder.")
@click.option("--workspace", type=click.IntRange(min=1), metavar="MIB", help="Limit of the builder's scratch memory.")
@click.option("--timing-cache", type=options.PATH, metavar="FILE", help="[default: one per GPU in the user's cache]")
@click.option("--version-compatible", is_flag=True, help="Plans that later TensorRT versions load.")
@click.option("--hardware-compatible", is_flag=True, help="Plans that other GPUs than this one load.")
@click.option("--strip-weights", is_flag=True, help="Plans without weights, which come from the ONNX when loaded.")
def build_engine(bundle: Path | None, **given: Any) -> None:
    """Turn BUNDLE into TensorRT engines of one precision, with --fp16, --int8 or --fp32.

    INT8 needs --calibration-data. The accuracy gate compares R@K with PyTorch's before anything is built.
    BUNDLE defaults to the only *.caan of the current folder.
    """
    from ..bundle import find_bundle

    precision = _precision(given)
    path = find_bundle(bundle, Path())
    with needs("engine", "caan build-engine"):
        from ..export.engine_job import EngineRequest, run_engine_job
        from ..export.plan_from_graph import BuildOptions
    request = EngineRequest(
        precision,
        given["target"],
        BuildOptions(
            compute_capabilities=given["compute_capability"],
            optimization_level=given["optimization_level"],
            workspace_mib=given["workspace"],
            version_compatible=given["version_compatible"],
            hardware_compatible=given["hardware_compatible"],
            strip_weights=given["strip_weights"],
            timing_cache=given["timing_cache"],
        ),
        given["profile"],
        auto=given["int8"] == "auto",
        **{name: given[name] for name in _AS_NAMED},
    )
    report = run_engine_job(path, request, log, bars=True)
    _print(path, precision, report)
    if report.failure is not None:
        raise report.failure


def _precision(given: dict[str, Any]) -> str:
    chosen = [name for name in ("fp16", "int8", "fp32") if given[name]]
    if len(chosen) != 1:
        raise click.UsageError(f"name one of --fp16, --int8 and --fp32, not {' and '.join(chosen) or 'none'}")
    if chosen != ["int8"] and (given["calibration_data"] or given["sensitivity"]):
        raise click.UsageError(f"--calibration-data and --sensitivity are for --int8, not for --{chosen[0]}")
    return chosen[0]


def _print(path: Path, precision: str, report: EngineReport) -> None:
    entry, record = report.precision, report.record
    sizes = report.bundle.manifest["files"]
    for kind, prefix, suffix in (
        ("ONNX", "onnx/", f".{precision}.onnx"),
        ("plans", f"engines/{report.engine}/", ".plan"),
    ):
        total = sum(file["size"] for name, file in sizes.items() if name.startswith(prefix) and name.endswith(suffix))
        where = path / (prefix if kind == "plans" else f"{prefix}*{suffix}")
        show(f"{kind:<6} {total / 2**20:8.2f} MiB  {where}")
    for graph, nodes in entry.get("nodes", {}).items():
        total = max(1, sum(nodes["macs"].values()))
        shares = ", ".join(f"{100 * n / total:.1f} % {type_}" for type_, n in nodes["macs"].items() if n)
        show(f"{graph:<14} multiply-adds: {shares}")
    if entry.get("kept_fp16"):
        show(f"back in FP16, since they harm most: {', '.join(entry['kept_fp16'])}")
    last = next((check for check in reversed(entry["checks"]) if "passed" in check), None)
    if last is None:
        show(f"{precision}: R@K not checked, since there was no data; add --data DIR")
    else:
        show(f"{precision}: {entry['status']} on {last['data']}: {last['summary']}")
    engine_check = record["checks"][-1]["summary"] if record["checks"] else record["run"]
    show(engine_check)
