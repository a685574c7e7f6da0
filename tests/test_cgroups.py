"""How many processors a process may use: affinity, control groups of both versions, OMP_NUM_THREADS."""

import os

import pytest

from caan._cgroups import cpu_quota, throttled
from caan._machine import MOST_THREADS, chosen_threads, cpu_count
from caan.errors import InputError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(kind, root, path, **files): a process's folder as Linux shows it, in the group `path` of what is mounted
    from `root`; `files` are the groups' own, `a__cpu_max` for a/cpu.max."""

    def make(kind, root, path, **files):
        proc, groups = tmp_path / "proc", tmp_path / "the groups"
        proc.mkdir()
        groups.mkdir()
        mount = str(groups).replace(" ", "\\040")
        options = "rw" if kind == "cgroup2" else "rw,cpu,cpuacct"
        lines = [
            "22 1 0:20 / /proc rw - proc proc rw",
            f"31 1 0:28 / /sys/fs/cgroup/memory rw shared:8 - {kind} cgroup rw,memory" if kind == "cgroup" else "",
            f"32 31 0:29 {root} {mount} rw,relatime shared:9 - {kind} cgroup {options}",
        ]
        (proc / "mountinfo").write_text("\n".join(lines))
        own = f"0::{path}\n" if kind == "cgroup2" else f"5:memory:/other\n4:cpu,cpuacct:{path}\n0::/\n"
        (proc / "cgroup").write_text(own)
        for name, content in files.items():
            *folders, file = name.split("__")
            folder = groups.joinpath(*folders)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file.replace("_", ".", 1)).write_text(f"{content}\n")
        return proc

    return make


def test_version_1_has_two_files_and_minus_one_for_no_limit(machine):
    proc = machine("cgroup", "/", "/a", cpu_cfs_quota_us=-1, cpu_cfs_period_us=100000)
    assert cpu_quota(proc) is None


def test_the_smallest_of_nested_groups_counts(machine):
    outer = {"a__cpu_cfs_quota_us": 150000, "a__cpu_cfs_period_us": 100000}
    inner = {"a__b__cpu_cfs_quota_us": 400000, "a__b__cpu_cfs_period_us": 100000}
    assert cpu_quota(machine("cgroup", "/", "/a/b", **outer, **inner)) == 1.5


@pytest.mark.parametrize(("content", "quota"), [("max 100000", None), ("20000 100000", 0.2), ("300000 100000", 3.0)])
def test_version_2_has_one_file(machine, content, quota):
    assert cpu_quota(machine("cgroup2", "/", "/a", a__cpu_max=content)) == quota


def test_a_container_sees_its_own_group_as_the_root(machine):
    files = {"cpu_cfs_quota_us": 200000, "cpu_cfs_period_us": 100000}
    assert cpu_quota(machine("cgroup", "/docker/1", "/docker/1", **files)) == 2.0


@pytest.mark.parametrize("content", ["", "many 0", "5", "-3 100000", "100000 0", "\x00"])
def test_what_is_no_quota_is_no_limit(machine, content):
    assert cpu_quota(machine("cgroup2", "/", "/../..", cpu_max=content)) is None


def test_a_machine_without_control_groups_has_no_limit(tmp_path):
    assert cpu_quota(tmp_path) is None and throttled(tmp_path) == 0


def test_throttling_is_counted_over_all_groups(machine):
    stat = "nr_periods 9\nnr_throttled {}\nthrottled_time 5"
    assert throttled(machine("cgroup2", "/", "/a", cpu_stat=stat.format(3), a__cpu_stat=stat.format(4))) == 7


@pytest.mark.parametrize(("quota", "count"), [(None, 8), (0.2, 1), (1.5, 2), (2.0, 2), (64.0, 8)])
def test_a_share_of_the_processors_is_rounded_up(monkeypatch, quota, count):
    monkeypatch.setattr("caan._machine.cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cpu_count() == chosen_threads() == count


@pytest.mark.parametrize(("value", "threads"), [("3", 3), (" 3 ", 3), ("4,2", 4), ("4, 2, 1", 4), ("1024", 1024)])
def test_openmp_s_variable_counts_unless_threads_are_named(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert chosen_threads() == threads and chosen_threads(2) == 2


@pytest.mark.parametrize("value", ["0", "-1", "²", "٣", "1e3", "2.5", "1025", "9" * 99, "two", "4,", ",", "4,x", "0x4"])
def test_absurd_values_are_refused_by_name(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(InputError, match=r"OMP_NUM_THREADS is '.*', not a number of threads from 1 to 1024"):
        chosen_threads()


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_variable_is_none(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert chosen_threads() == cpu_count()


@pytest.mark.parametrize("threads", [0, -1, MOST_THREADS + 1, True, 2.5, "4"])
def test_threads_that_no_machine_has_are_refused(threads):
    with pytest.raises(InputError, match="threads must be from 1 to 1024"):
        chosen_threads(threads)
