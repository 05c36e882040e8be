"""How a process uses a CPU: its threads, and the memory that it frees."""

import ctypes
import os
import sys

import torch

from transreid_ssl.machine import own_cores

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BLOCK = 32 * 2**20
_KEPT_IN_ALL = 2**31 - 1


def use_cpu(num_workers: int, num_threads: int | None = None) -> None:
    """Give torch threads for this process's share of the cores, and let it keep freed memory.

    Launchers set one thread, which leaves many cores idle.

    Args:
        num_workers: Processes that prepare images for this one. They are idle most of the time, so
            they share the cores of the threads; but where torch was imported before this package,
            threads wait for one another in a busy loop, many times slower beside workers, and leave
            a core to each.
        num_threads: Takes so many instead.
    """
    threads = own_cores() - (0 if _sleeps_soon() else num_workers)
    torch.set_num_threads(num_threads or max(1, threads))
    keep_freed_memory()


def _sleeps_soon() -> bool:
    """Whether a thread that waits for another does not hold its core (``transreid_ssl``)."""
    return "GOMP_SPINCOUNT" in os.environ


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 32 MiB, 2 GiB in all, instead of giving them back.

    The system hands memory out page by page, and clears each page: a step of training asks for
    gigabytes, which took 4 % of its time. Elsewhere than on Linux with glibc, nothing is done.
    """
    allocator = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(allocator, "mallopt"):
        allocator.mallopt(_MMAP_THRESHOLD, _KEPT_BLOCK)
        allocator.mallopt(_TRIM_THRESHOLD, _KEPT_IN_ALL)
