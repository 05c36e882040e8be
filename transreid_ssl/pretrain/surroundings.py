"""What a run finds where it is started: the crops of its pool, and the machine."""

import os
import shlex
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transreid_ssl import data, retrieval
from transreid_ssl.errors import UserError
from transreid_ssl.machine import own_cores
from transreid_ssl.words import counted

_LOOKED_AT = 200


@dataclass(frozen=True)
class Crops:
    """What is seen of a pool: the number of images, and medians in pixels and height / width.

    ``mates`` is the share of images with another frame of their track; None: tracks are not known.
    ``sure`` says whether tracks are sure of pairs of one person and of two.
    """

    count: int
    height: float
    aspect: float
    mates: float | None = None
    sure: bool = False

    def __str__(self) -> str:
        tracks = "without tracks"
        if self.mates is not None:
            tracks = f"{self.mates:.0%} of them with another frame of their track"
        size = f"median height {self.height:.0f}, height / width {self.aspect:.2f}"
        return f"{counted(self.count, 'image')} ({size}; {tracks})"


@dataclass(frozen=True)
class Machine:
    """The cores of each process, the memory of its GPU in GiB (None: a CPU), the processes."""

    cores: int
    memory: float | None = None
    processes: int = 1

    def __str__(self) -> str:
        device = "a CPU" if self.memory is None else f"a GPU of {self.memory:.0f} GiB"
        each = f"{device} and {self.cores} cores"
        return each if self.processes == 1 else f"{self.processes} processes, each of {each}"


def look_at(config: Any) -> Crops:
    """What is seen of a pool: of its images at most 200 are decoded.

    Raises:
        UserError: it cannot be opened, or none of these can be read.
    """
    pool = data.open_pool(config.data.pool, config.data.subset)
    seen = data.doctor.examine(pool, data.doctor.choose(len(pool), _LOOKED_AT))
    if not seen.sizes:
        raise UserError(
            f"{pool.source}: none of {seen.checked} images looked at can be read; run: "
            f"python -m transreid_ssl.data verify {shlex.quote(config.data.pool)}"
        )
    heights, widths = np.array(seen.sizes, float).T
    crops = Crops(len(pool), float(np.median(heights)), float(np.median(heights / widths)))
    if pool.tracks is None:
        return crops
    lengths = np.bincount(pool.tracks.tracks)
    mates = lengths[lengths > 1].sum() / len(pool)
    return replace(crops, mates=float(mates), sure=retrieval.has_sure_pairs(pool.tracks))


def this_machine() -> Machine:
    """What each process of this run has."""
    import torch

    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes")
    memory = None
    if torch.cuda.is_available() and not on_cpu:
        which = int(os.environ.get("LOCAL_RANK", "0"))
        memory = torch.cuda.get_device_properties(which).total_memory / 2**30
    return Machine(own_cores(), memory, int(os.environ.get("WORLD_SIZE", "1")))
