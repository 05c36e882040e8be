"""What a training would take on a GPU that is not here, from what was measured on one."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from transreid_ssl import data
from transreid_ssl.errors import UserError
from transreid_ssl.training.clock import rate
from transreid_ssl.words import counted

LUPERSON = {"LUPerson (4,180,243 images)": 4_180_243, "its half": 4_180_243 // 2}


@dataclass(frozen=True)
class Card:
    """Of a GPU, by its data sheet: memory that programs get, what it may draw at most, and how fast
    its memory is beside that of the GPU that was measured."""

    gib: int
    watts: int
    bandwidth: float


@dataclass(frozen=True)
class Profile:
    """What a DINO step was measured to take; ``gib`` is the peak with ``batch_size`` images, of
    which ``weights_gib`` are there whatever the batch, and ``checkpoint_gb`` is what one takes on
    the disk."""

    images_per_second: float
    batch_size: int
    gib: float
    weights_gib: float
    checkpoint_gb: float


FULL = 0.9
"""Share of a memory above which it hardly suffices; arithmetic and measurements are not exact."""
MEASURED = "h200"
CARDS = {MEASURED: Card(139, 700, 1.0), "h100": Card(79, 700, 3.35 / 4.8)}
PROFILES = {
    "vit_small_patch16_ics": Profile(2273, 256, 20.0, 0.84, 0.73),
    "vit_small_patch16_reid": Profile(3354, 256, 20.4, 0.82, 0.71),
    "vit_base_patch16_ics": Profile(1073, 128, 24.1, 2.08, 1.79),
}
"""Of ``DINO_VIEWS``, 65,536 outputs, bf16, blocks compiled to keep 0.8 (torch 2.11), crops on the
device."""
DINO_VIEWS: dict[str, Any] = {
    "num_global": 2, "global_size": (256, 128), "num_local": 8, "local_size": (128, 64),
}  # fmt: skip


def on_known_gpu(
    recipe: ModuleType, config: Any, gpu: str, processes: int, has_pool: bool
) -> list[str]:
    """Lines for people, from a stored profile.

    Args:
        has_pool: whether a pool was named; else that of the settings may be one that is not here.

    Raises:
        UserError: none is stored of this GPU, network or views, or a batch that so many cannot
            share.
    """
    card, profile = CARDS.get(gpu.lower()), PROFILES.get(config.model.name)
    if card is None:
        raise UserError(
            f"--gpu {gpu}: nothing was measured on it; give one of {', '.join(CARDS)}, or leave "
            "--gpu out to measure here"
        )
    if profile is None or not recipe.__name__.startswith("dino"):
        raise UserError(
            f"--gpu {gpu}: no profile of {recipe.__name__} with {config.model.name} is stored; "
            f"known are dino_pretrain with {', '.join(PROFILES)}; leave --gpu out to measure here"
        )
    _check_profiled(config, gpu)
    speeds = [processes * profile.images_per_second * share for share in _shares(card)]
    epochs = config.run.total_epochs
    lines = [
        f"measured on one {MEASURED.upper()}: {rate(profile.images_per_second)} images/s with "
        f"{profile.batch_size} at once, with --run.compile_memory 0.8 and without loaders"
    ]
    if card.bandwidth < 1:
        lines.append(
            f"  by arithmetic one {gpu.upper()} reaches "
            f"{_range(profile.images_per_second * share for share in _shares(card))} images/s: it "
            f"computes as fast, and its memory is {card.bandwidth:.1f} times as fast"
        )
    if processes > 1:
        lines.append(f"  {processes} of them are {_range(speeds)} images/s if they never wait")
    for name, count in _pools(config, has_pool).items():
        hours = [count * epochs / speed / 3600 for speed in reversed(speeds)]
        energy = hours[-1] * processes * card.watts / 1000
        lines.append(f"  {name}, {epochs} epochs: {_range(hours, 1)} h, at most {energy:,.1f} kWh")
    return [
        *lines,
        _memory(config.run, profile, card, processes),
        f"disk: {profile.checkpoint_gb * config.run.keep_checkpoints:.2f} GB of checkpoints"
        + ", and those that --run.keep_every keeps" * bool(config.run.keep_every),
    ]


def _shares(card: Card) -> list[float]:
    """The least and the most of the measured rate; one where both are the same."""
    return sorted({card.bandwidth, 1.0})


def _range(values: Iterable[float], digits: int = 0) -> str:
    return " to ".join(f"{value:,.{digits}f}" for value in values)


def _memory(run: Any, profile: Profile, card: Card, processes: int) -> str:
    """The line of a GPU's memory, with what to change where it does not suffice."""
    at_once = share_of_batch(run, processes)
    each = (profile.gib - profile.weights_gib) / profile.batch_size
    gib = profile.weights_gib + each * at_once
    known = at_once == profile.batch_size
    line = (
        f"memory: {'' if known else 'about '}{gib:.1f} of the {card.gib} GiB of a GPU for "
        f"{counted(at_once, 'image')} at once"
        + f" (by arithmetic from {profile.gib:.1f} for {profile.batch_size})"
        * (not known)
    )
    if gib < FULL * card.gib:
        return line + "; the default --run.compile_memory 0.3 keeps less"
    fits = (FULL * card.gib - profile.weights_gib) / each
    parts = next(
        parts for parts in range(2, at_once + 1) if at_once % parts == 0 and at_once / parts < fits
    )
    return (
        f"{line}, which do not suffice: --run.accumulation {run.accumulation * parts} takes fewer "
        "at once; the default --run.compile_memory 0.3 keeps less, and "
        "--model.gradient_checkpointing true least"
    )


def share_of_batch(run: Any, processes: int) -> int:
    """Images that each of so many processes has on its device at once.

    Raises:
        UserError: they cannot share a batch.
    """
    share, rest = divmod(run.batch_size, run.accumulation * processes)
    if rest:
        given = f"--processes {processes}" if processes > 1 else "--run.accumulation"
        raise UserError(
            f"{given}: {counted(run.batch_size, 'image is', 'images are')} not shared by "
            f"{counted(processes, 'process', 'processes')} in {counted(run.accumulation, 'part')} "
            "each; give numbers that divide the batch"
        )
    return share


def _check_profiled(config: Any, gpu: str) -> None:
    """Refuse settings of DINO that no stored profile is of."""
    elsewhere = "leave --gpu out to measure here"
    model, run = config.model, config.run
    other = [f"--dino.{name}" for name in config.dino.additions]
    other += [
        option
        for option, is_other in {
            "--dino.out_dim": config.dino.out_dim != 65536,
            "--model.registers": model.registers > 0,
            "--model.token_norm": model.token_norm != "none",
            "--model.stride": model.stride not in (None, 16),
            "--model.gradient_checkpointing": model.gradient_checkpointing,
            "--run.precision": run.precision == "no",
            "--run.compile": run.compile is False,
        }.items()
        if is_other
    ]
    if other:
        raise UserError(
            f"--gpu {gpu}: the profile is of DINO as it was published, in half precision and "
            f"compiled, which {other[0]} changes; {elsewhere}"
        )
    if any(getattr(config.views, name) != value for name, value in DINO_VIEWS.items()):
        raise UserError(
            f"--gpu {gpu}: the profile is of 2 crops of 256x128 and 8 of 128x64 an image, but "
            f"these settings ask for others; {elsewhere}"
        )


def is_demo(config: Any) -> bool:
    """Whether generated people stand in for a pool."""
    return config.data.pool.partition(":")[0] == "demo"


def _pools(config: Any, has_pool: bool) -> dict[str, int]:
    """How many images the pool of the settings has, or LUPerson, if none is there."""
    if is_demo(config) or not (has_pool or os.path.exists(config.data.pool)):
        return LUPERSON
    count = len(data.open_pool(config.data.pool, config.data.subset))
    return {f"{config.data.pool} ({counted(count, 'image')})": count}
