"""A process whose control group allows fewer processors than the machine has: no more threads than allowed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_COUNT = "from caan._machine import chosen_threads; print(chosen_threads())"


@pytest.fixture
def limited():
    """limited(command, quota): a command's output in a control group with so many processors."""
    name = f"caan-attack-{os.getpid()}"
    made = []

    def run(code, quota):
        group, files = _new_group(name, quota)
        made.append(group)
        for file, content in files.items():
            (group / file).write_text(str(content))
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        join = f"echo $$ > {group}/cgroup.procs && exec {sys.executable} -c '{code}'"
        done = subprocess.run(["sh", "-c", join], capture_output=True, text=True, env=environment, check=True)
        return done.stdout.strip()

    yield run
    for group in made:
        group.rmdir()


def _new_group(name, quota):
    """A control group's folder and what to write into it. Skips if this user can't create one."""
    period = 100_000
    try:
        first = Path("/sys/fs/cgroup/cpu")
        if (first / "cpu.cfs_quota_us").exists():
            (first / name).mkdir(exist_ok=True)
            return first / name, {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": int(quota * period)}
        second = Path("/sys/fs/cgroup")
        if "cpu" in (second / "cgroup.subtree_control").read_text().split():
            (second / name).mkdir(exist_ok=True)
            return second / name, {"cpu.max": f"{int(quota * period)} {period}"}
    except OSError as error:
        pytest.skip(f"this machine doesn't let us make a control group: {error}")
    pytest.skip("this machine has no control groups for processors")


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors, to take one away")
@pytest.mark.parametrize(("quota", "threads"), [(0.3, 1), (1.0, 1), (1.2, 2)])
def test_the_kernel_s_quota_limits_the_threads(limited, quota, threads):
    assert limited(_COUNT, quota) == str(threads)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system that binds processes to processors")
def test_the_affinity_limits_the_threads(limited):
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); {_COUNT}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"},
        check=True,
    )
    assert done.stdout.strip() == "1"
