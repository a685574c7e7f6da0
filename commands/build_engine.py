"""`caan build-engine`: TensorRT engines for one precision of a bundle, checked by the accuracy gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import needs
from . import options
from .output import log, show

if TYPE_CHECKING:
    from ..export.engine_from_bundle import EngineReport

# Options with the same name in the library call.
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
    """`--int8` may stand alone: it must not take the bundle after it as its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--int8=all" if arg == "--int8" else arg for arg in args])


@click.command("build-engine", cls=_Command, epilog=options.EXIT_CODES)
@options.bundle
@click.option("--fp16", is_flag=True, help="FP16, with FP32 islands for numerical accuracy.")
@click.option(
    "--int8",
    type=click.Choice(["all", "auto"]),
    metavar="[=auto]",
    help="INT8 products, the rest FP16. auto: return the most harmful ones to FP16 until the gate passes.",
)
@click.option("--fp32", is_flag=True, help="The graphs as they were exported.")
@click.option("--calibration-data", type=options.PATH, metavar="DIR", help="A data set in SCAN's format, for INT8.")
@click.option("--calibration-split", default="train", show_default=True, help="Its split.")
@click.option("--calibration-method", default="min-max", show_default=True, help="Or entropy, percentile, mse.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the calibration's pairs.")
@click.option("--sensitivity", is_flag=True, help="Measure the accuracy cost of each node alone in INT8.")
@click.option(
    "--keep-fp32", multiple=True, metavar="NAME|REGEX", help="Nodes that stay FP32, as scorer/Su; repeatable."
)
@click.option(
    "--data",
    type=options.PATH,
    metavar="DIR",
    help="Data for the accuracy gate.  [default: the calibration data's test or dev split, or its held-out images]",
)
@options.split
@options.limit
@options.checkpoint
@click.option("--gate-rsum", type=click.FloatRange(min=0), help="Allowed |Δ rsum|.  [default: FP16 0.5, INT8 2]")
@click.option("--gate-score", type=click.FloatRange(min=0), help="Allowed |Δ score|.  [default: FP32 1e-4]")
@click.option("--keep-failed", is_flag=True, help="Keep a precision that fails its gate, marked as failed.")
@click.option(
    "--target", help="tensorrt or tensorrt-rtx.  [default: tensorrt if it and a GPU are available, else -rtx]"
)
@click.option(
    "--profile", multiple=True, metavar="GRAPH:NAME:AXIS=MIN/OPT/MAX,…", help="Replaces a graph's default profiles."
)
@click.option(
    "--compute-capability", multiple=True, metavar="X.Y", help="Build ahead of time for this GPU; repeatable."
)
@click.option("--optimization-level", type=click.IntRange(0, 5), default=3, show_default=True, help="Of the builder.")
@click.option("--workspace", type=click.IntRange(min=1), metavar="MIB", help="Limit of the builder's scratch memory.")
@click.option("--timing-cache", type=options.PATH, metavar="FILE", help="[default: one per GPU in the user's cache]")
@click.option("--version-compatible", is_flag=True, help="Plans that also load in later TensorRT versions.")
@click.option("--hardware-compatible", is_flag=True, help="Plans that also run on other GPU models.")
@click.option("--strip-weights", is_flag=True, help="Plans without weights, which are loaded from the ONNX file.")
def build_engine(bundle: Path | None, **values: Any) -> None:
    """Build TensorRT engines for BUNDLE in one precision: --fp16, --int8 or --fp32.

    INT8 needs --calibration-data. The accuracy gate compares R@K with PyTorch's before anything is built.
    BUNDLE defaults to the only *.caan of the current folder.
    """
    from ..bundle import find_bundle

    precision = _precision(values)
    path = find_bundle(bundle, Path())
    with needs("engine", "caan build-engine"):
        from ..export.engine_job import EngineRequest, run_engine_job
        from ..export.plan_from_graph import BuildOptions
    request = EngineRequest(
        precision,
        values["target"],
        BuildOptions(
            compute_capabilities=values["compute_capability"],
            optimization_level=values["optimization_level"],
            workspace_mib=values["workspace"],
            version_compatible=values["version_compatible"],
            hardware_compatible=values["hardware_compatible"],
            strip_weights=values["strip_weights"],
            timing_cache=values["timing_cache"],
        ),
        values["profile"],
        auto=values["int8"] == "auto",
        **{name: values[name] for name in _AS_NAMED},
    )
    report = run_engine_job(path, request, log, bars=True)
    _print(path, precision, report)
    if report.failure is not None:
        raise report.failure


def _precision(values: dict[str, Any]) -> str:
    chosen = [name for name in ("fp16", "int8", "fp32") if values[name]]
    if len(chosen) != 1:
        raise click.UsageError(f"name one of --fp16, --int8 and --fp32, not {' and '.join(chosen) or 'none'}")
    if chosen != ["int8"] and (values["calibration_data"] or values["sensitivity"]):
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
        show(f"kept in FP16, too inaccurate in INT8: {', '.join(entry['kept_fp16'])}")
    last = next((check for check in reversed(entry["checks"]) if "passed" in check), None)
    if last is None:
        show(f"{precision}: R@K not checked without data; add --data DIR")
    else:
        show(f"{precision}: {entry['status']} on {last['data']}: {last['summary']}")
    engine_check = record["checks"][-1]["summary"] if record["checks"] else record["run"]
    show(engine_check)
