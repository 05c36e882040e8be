"""Threads and memory of a process on a CPU."""

import ctypes
import subprocess
import sys

import pytest

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
    found = {}
    for kind in ("keep", "leave"):
        command = [sys.executable, "-c", STEPS, kind]
        found[kind] = int(subprocess.run(command, check=True, capture_output=True).stdout)
    assert found["keep"] < found["leave"] / 10
