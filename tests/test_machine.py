"""Cores and memory of a process in a control group of either version, as Linux tells them."""

import os
from types import SimpleNamespace

import pytest

from transreid_ssl import machine

GIB = 2**30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes files of control groups; the machine has 16 cores and 64 GiB, 48 of them free."""
    memory = SimpleNamespace(total=64 * GIB, available=48 * GIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "membership")

    def file(path, content):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)

    return file


def found():
    return (
        machine.num_cores(), machine.total_memory() / GIB, machine.available_memory() / GIB
    )  # fmt: skip


def test_a_machine_without_control_groups_is_all_there(groups):
    assert found() == (16, 64, 48)


def test_groups_without_a_limit_change_nothing(groups):
    groups("membership", "4:memory:/\n2:cpu,cpuacct:/\n0::/\n")
    groups("groups/memory.max", "max\n")
    groups("groups/cpu.max", "max 100000\n")
    groups("groups/memory/memory.limit_in_bytes", "9223372036854771712\n")
    groups("groups/memory/memory.usage_in_bytes", "1000\n")
    groups("groups/cpu/cpu.cfs_quota_us", "-1\n")
    groups("groups/cpu/cpu.cfs_period_us", "100000\n")
    assert found() == (16, 64, 48)


def test_the_limits_of_a_container_of_version_2(groups):
    groups("membership", "0::/\n")
    groups("groups/memory.max", f"{8 * GIB}\n")
    groups("groups/memory.current", f"{5 * GIB}\n")
    groups("groups/memory.stat", f"anon {3 * GIB}\ninactive_file {2 * GIB}\n")
    groups("groups/cpu.max", "250000 100000\n")
    assert found() == (3, 8, 5)


def test_the_limits_of_a_job_are_those_of_its_group_and_of_all_around_it(groups):
    groups("membership", "0::/slurm/job_7/step_0\n")
    groups("groups/slurm/job_7/step_0/memory.max", "max\n")
    groups("groups/slurm/job_7/memory.max", f"{4 * GIB}\n")
    groups("groups/slurm/job_7/memory.current", f"{9 * GIB}\n")
    groups("groups/slurm/memory.max", f"{32 * GIB}\n")
    groups("groups/slurm/cpu.max", "50000 100000\n")
    assert found() == (1, 4, 0)


@pytest.mark.parametrize("inside", ["", "/docker/0123abcd"])
def test_the_limits_of_a_container_of_version_1(groups, inside):
    """Docker shows the name of the group outside, where the folder is the group itself."""
    groups("membership", "5:memory:/docker/0123abcd\n3:cpu,cpuacct:/docker/0123abcd\n1:name=x:/\n")
    groups(f"groups/memory{inside}/memory.limit_in_bytes", f"{6 * GIB}\n")
    groups(f"groups/memory{inside}/memory.usage_in_bytes", f"{4 * GIB}\n")
    groups(f"groups/memory{inside}/memory.stat", f"cache 7\ntotal_inactive_file {GIB}\n")
    groups(f"groups/cpu{inside}/cpu.cfs_quota_us", "400000\n")
    groups(f"groups/cpu{inside}/cpu.cfs_period_us", "100000\n")
    assert found() == (4, 6, 3)


def test_what_a_process_is_bound_to_counts_also_within_a_larger_quota(groups, monkeypatch):
    groups("membership", "0::/\n")
    groups("groups/cpu.max", "800000 100000\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert machine.num_cores() == 2
