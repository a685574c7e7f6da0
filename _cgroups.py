"""How much of the processors Linux's control groups give this process, as a container's --cpus sets it. Both versions.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")


def cpu_quota(proc: Path = PROC) -> float | None:
    """Processors' worth of time: of this process's group and those around it, the smallest. None: all that there are.

    proc: the process's folder, which says where its groups are.
    """
    quotas = [quota for group in groups(proc) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def throttled(proc: Path = PROC) -> int:
    """How often the groups have held back somebody's threads so far, this process's or a neighbour's in its group."""
    times = 0
    for group in groups(proc):
        found = re.search(r"^nr_throttled (\d+)$", _text(group / "cpu.stat"), re.MULTILINE)
        times += int(found[1]) if found else 0
    return times


def groups(proc: Path = PROC) -> Iterator[Path]:
    """Folders of the groups that may limit this process, the innermost first; none where there are no such groups."""
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
        yield from _chain(Path(mount), root, _own_path(proc, controller))


def _own_path(proc: Path, controller: str) -> str:
    """Of this process's group in a hierarchy, as /proc/self/cgroup names it: 4:cpu,cpuacct:/docker/…, or 0::/…"""
    for line in _text(proc / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") and (controller or number == "0"):
            return path
    return "/"


def _chain(mount: Path, root: str, path: str) -> Iterator[Path]:
    """The group's folder and those around it, up to what is mounted. A container may see its own group as the root."""
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
    r"""As mountinfo writes a name with a space: \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
