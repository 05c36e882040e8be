"""How a process uses a CPU: its threads, and the memory that it frees."""

import os
import sys

import torch

from transreid_ssl.machine import keep_freed_memory, loaded_libraries, num_cores, own_cores

_SOON = 10_000
"""Looks at what it waits for, after which a thread sleeps: less than a millisecond."""


def use_cpu(num_workers: int, num_threads: int | None = None) -> None:
    """Give torch threads for this process's share of the cores, and let it keep freed memory.

    Launchers set one thread, which leaves many cores idle.

    Args:
        num_workers: Processes that prepare images for this one. They are idle most of the time, so
            they share the cores of the threads. Where threads wait for one another in a busy loop
            (another OpenMP than GNU's, torch imported before this package, ``OMP_WAIT_POLICY``
            active), which is many times slower beside workers, they leave a core to each.
        num_threads: Takes so many instead, at most one for each core of the machine.
    """
    threads = own_cores() - (0 if _sleeps_soon() else num_workers)
    torch.set_num_threads(min(num_threads or max(1, threads), num_cores()))
    keep_freed_memory(2**31 - 1)


def _sleeps_soon() -> bool:
    """Whether a thread that waits for another does not hold its core (``transreid_ssl``)."""
    if sys.platform != "linux" or not (loaded := loaded_libraries()):
        return False
    if "libiomp" in loaded or "libomp." in loaded:  # Intel's and LLVM's have settings of their own
        return False
    looks = os.environ.get("GOMP_SPINCOUNT", "")
    if looks:
        return looks.isdecimal() and int(looks) <= _SOON
    return os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
