"""What this process may use of its machine: cores and memory, of which a container has a part.

Linux bounds the processes of a container, or of a job of a cluster, by control groups, of version 1
or 2; both are looked at, with the groups around them. Elsewhere there are none.
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def num_cores() -> int:
    """Cores that this process may use; part of one counts as one."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min([cores, *(max(1, math.ceil(quota)) for quota in _quotas())])


def own_cores() -> int:
    """This process's share of them, where a launcher started several here; at least one."""
    return max(1, num_cores() // processes_here())


def processes_here() -> int:
    """How many processes a launcher started on this machine, this one among them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def loaded_libraries() -> str:
    """What Linux says of the files that are mapped into this process; nothing where it is silent.

    Some containers, and systems without ``/proc``, do not tell.
    """
    try:
        return Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return ""


def keep_freed_memory(most: int) -> None:
    """Let glibc keep freed blocks of up to 32 MiB, ``most`` bytes in all, for this process.

    The system hands memory out page by page, and clears each page: a step of training asks for
    gigabytes, which took 4 % of its time. Forks inherit the bound, and may have their own. Nothing
    is done elsewhere than on Linux with glibc.
    """
    allocator = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(allocator, "mallopt"):
        allocator.mallopt(_MMAP_THRESHOLD, 2**25)
        allocator.mallopt(_TRIM_THRESHOLD, most)


def total_memory() -> int:
    """Bytes that the machine has, or the smallest of the control groups of this process."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _memories())])


def available_memory() -> int:
    """Bytes that a process can have now without swapping, or meeting a control group's limit."""
    free = [max(0, limit - used) for limit, used in _memories()]
    return min([psutil.virtual_memory().available, *free])


def _quotas() -> Iterator[float]:
    """Cores that each control group may use at a time, where it is bounded."""
    for folder in _folders("cpu"):
        of_two = _words(folder / "cpu.max")
        quota, period = of_two if len(of_two) == 2 else (
            "".join(_words(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")
        )  # fmt: skip
        if quota.isdigit() and period.isdigit() and int(period):  # "max" or -1: not bounded
            yield int(quota) / int(period)


def _memories() -> Iterator[tuple[int, int]]:
    """Bytes that each control group may have, where it is bounded, and those that it has.

    Pages of files that were not read lately are not counted, as they make room.
    """
    for folder in _folders("memory"):
        for most, has, idle in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = (_number(folder / name) for name in (most, has))
            if limit is not None:  # version 1 has a huge one in the place of none
                stat = _words(folder / "memory.stat")
                pages = dict(zip(stat[::2], stat[1::2])).get(idle, "0")
                yield limit, max(0, (used or 0) - int(pages))


def _folders(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups, from its own to the one around all.

    A container may see the name that its group has outside; its own then is the one around all.
    """
    for line in _text(_MEMBERSHIP).splitlines():
        _, controllers, name = line.split(":", 2)
        roots = [_GROUPS / controller] if controller in controllers.split(",") else []
        if not controllers:  # version 2, beside version 1 or alone
            roots = [_GROUPS / "unified", _GROUPS]
        inside = PurePosixPath(name.lstrip("/"))
        for root in roots:
            yield from (root / part for part in dict.fromkeys((inside, *inside.parents)))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # none of that kind
        return ""


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _number(path: Path) -> int | None:
    found = _text(path).strip()
    return int(found) if found.isdigit() else None
