"""Threads and memory of a process on a CPU."""

import ctypes
import os
import subprocess
import sys

import pytest

from transreid_ssl.machine import loaded_libraries, num_cores, own_cores
from transreid_ssl.training import use_cpu

STEPS = """
import resource, sys, torch
from transreid_ssl.training.cpu import use_cpu

def faults():
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**22) for _ in range(16)]  # 16 MiB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin

if sys.argv[1] == "keep":
    use_cpu(num_workers=0, num_threads=1)
found = [faults() for _ in range(8)]
print(sum(found[4:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone can be told to keep memory")
def test_memory_that_a_step_frees_serves_the_next():
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("no glibc")
    # As glibc begins; later it depends on what was freed first how much it keeps by itself.
    begins = {f"MALLOC_{name}_THRESHOLD_": str(2**17) for name in ("MMAP", "TRIM")}
    found = {}
    for kind in ("keep", "leave"):
        done = subprocess.run(
            [sys.executable, "-c", STEPS, kind], env=os.environ | begins, check=True,
            capture_output=True,
        )  # fmt: skip
        found[kind] = int(done.stdout)
    assert found["keep"] < found["leave"] / 10


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP alone is told to sleep soon")
@pytest.mark.parametrize(
    ("first", "policy", "left"),
    [
        ("transreid_ssl", None, 0),
        ("torch", None, 1),
        ("transreid_ssl", "active", 1),
        ("torch", "passive", 0),
    ],
)
def test_all_cores_are_torchs_where_its_threads_sleep_soon(first, policy, left):
    """Where they wait in a busy loop, a worker has a core of its own."""
    program = (
        f"import {first}, torch\nfrom transreid_ssl.training import use_cpu\n"
        "use_cpu(num_workers=1)\nprint(torch.get_num_threads())"
    )
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "LOCAL_WORLD_SIZE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) == max(1, num_cores() - left)
    assert ("GOMP_SPINCOUNT = '1000'" in done.stderr) == (not left and not policy)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is asked")
def test_where_linux_does_not_tell_what_is_loaded_workers_keep_cores(monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError("/proc/self/maps")

    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    assert "libc" in loaded_libraries()
    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    assert loaded_libraries() == ""
    monkeypatch.setattr("torch.set_num_threads", (given := []).append)
    use_cpu(num_workers=1)
    assert given == [max(1, own_cores() - 1)]


def test_threads_beyond_the_cores_are_not_taken(monkeypatch):
    """A hundred thousand ended in a fault of the system; 64 on two cores are 20 times slower."""
    monkeypatch.setattr("torch.set_num_threads", (given := []).append)
    use_cpu(num_workers=0, num_threads=100_000)
    use_cpu(num_workers=0, num_threads=1)
    assert given == [num_cores(), 1]
