"""The CPU quota of this process by Linux control groups (v1 and v2), as set by a container's --cpus.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")


def cpu_quota(proc: Path = PROC) -> float | None:
    """The smallest quota, in processors, of this process's group and its ancestors. None: unlimited.

    proc: the process's folder in /proc.
    """
    quotas = [quota for group in groups(proc) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def throttled(proc: Path = PROC) -> int:
    """How often the groups have throttled threads so far, of this process or others in its group."""
    times = 0
    for group in groups(proc):
        match = re.search(r"^nr_throttled (\d+)$", _text(group / "cpu.stat"), re.MULTILINE)
        times += int(match[1]) if match else 0
    return times


def groups(proc: Path = PROC) -> Iterator[Path]:
    """Folders of the groups that may limit this process, innermost first; empty without control groups."""
    for line in _text(proc / "mountinfo").splitlines():
        # 32 31 0:29 ROOT MOUNT rw,relatime … - cgroup cgroup rw,cpu
        before, separator, after = line.partition(" - ")
        fields, (kind, *_, options) = before.split(), after.split() or ("", "")
        if not separator or len(fields) < 5 or kind not in ("cgroup", "cgroup2"):
            continue
        controller = "cpu" if kind == "cgroup" else ""
        if controller and controller not in options.split(","):
            continue
        root, mount = (_unescaped(field) for field in fields[3:5])
        yield from _chain(Path(mount), root, _group_path(proc, controller))


def _group_path(proc: Path, controller: str) -> str:
    """This process's group in a hierarchy, from /proc/self/cgroup: 4:cpu,cpuacct:/docker/…, or 0::/…"""
    for line in _text(proc / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") and (controller or number == "0"):
            return path
    return "/"


def _chain(mount: Path, root: str, path: str) -> Iterator[Path]:
    """The group's folder and its ancestors up to the mount point. A container may see its own group as the root."""
    inside = Path(path)
    if inside.is_relative_to(root):
        inside = inside.relative_to(root)
    parts = [part for part in inside.parts if part not in ("/", "..")]
    for length in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:length])
        if folder.is_dir():
            yield folder


def _quota(group: Path) -> float | None:
    words = _text(group / "cpu.max").split() or [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
    with suppress(ValueError, ZeroDivisionError):
        quota, period = map(int, words)  # "max", and -1: no limit
        return quota / period if quota > 0 and period > 0 else None
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    r"""Decode mountinfo's octal escapes, as \040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
