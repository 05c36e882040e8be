"""The commands ``tracks`` and ``clip`` of ``python -m transreid_ssl.data``."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from transreid_ssl.data.open import open_pool
from transreid_ssl.data.packing import pack
from transreid_ssl.data.people.clip import ClipConfig, write_clip
from transreid_ssl.data.pool import ConcatPool
from transreid_ssl.data.tracks.choice import CropRules
from transreid_ssl.data.tracks.formats import FORMATS
from transreid_ssl.data.tracks.pool import (
    LAYOUTS,
    ScreenedCrops,
    crops_of_pool,
    crops_of_videos,
    describe_left_out,
    layout_of,
)
from transreid_ssl.data.tracks.sources import find_videos
from transreid_ssl.errors import UserError, check_ranges
from transreid_ssl.outputs import OUTPUTS

DEMO = "demo"
_DEMO_CLIP = f"{OUTPUTS}/clip"
_POSITIONAL = {"positional": True}


@dataclass(frozen=True)
class Tracks(CropRules):
    r"""Make a pool that knows cameras, tracks and frames, of videos or of crops.

    Example: ``python -m transreid_ssl.data tracks`` for a generated clip, else
    ``python -m transreid_ssl.data tracks VIDEOS --out pool``, or for crops
    ``tracks CROPS --pattern 'cam(?P<camera>\d+)_track(?P<track>\d+)_(?P<frame>\d+)'``.
    A stopped command goes on when it is given again. TRACKS.md says which files it reads.

    Args:
        paths: Videos, folders of them or of frames, or one pool of crops; or demo.
        out: The new folder, of Parquet shards.
        tracks: The tracker's file, or a folder of files called as the videos are; else beside them.
        format: Of the track files, or of the names of crops; else as they look.
        pattern: Regular expression: the track, frame and camera in a crop's name, or the camera in
            a video's, which else is a camera of its own.
        classes: Numbers of the classes that are people; else the format's.
        first_frame: The number of a video's first frame; else the format's.
        rows_per_shard: Boxes to crop in one Parquet file: what a process makes at a time.
        num_workers: Processes, at most as many as there are cores.
    """

    paths: list[str] = field(
        default_factory=lambda: [DEMO],
        metadata={**_POSITIONAL, "nargs": "*", "metavar": "PATH", "help": "what is read"},
    )
    out: str = f"{OUTPUTS}/tracks"
    tracks: str | None = None
    format: (
        Literal["mot", "boxmot", "ultralytics", "supervision", "market1501", "mars", "luperson-nl"]
        | None
    ) = None
    pattern: str | None = None
    classes: list[int] = field(
        default_factory=list,
        metadata={"nargs": "*", "type": int, "help": "classes that are people (the format's)"},
    )
    first_frame: int | None = None
    rows_per_shard: int = 5_000
    num_workers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, rows_per_shard=(1, None), num_workers=(0, None), first_frame=(0, None))

    @property
    def rules(self) -> CropRules:
        """What is asked of crops, alone."""
        names = [one.name for one in dataclasses.fields(CropRules)]
        return CropRules(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Clip(ClipConfig):
    """Write a generated clip: people walk past cameras, a video and a track file of each.

    Example: ``python -m transreid_ssl.data clip outputs/clip --people 8``.

    Args:
        out: The new folder.
    """

    out: str = field(
        default_factory=lambda: _DEMO_CLIP,
        metadata={**_POSITIONAL, "nargs": "?", "metavar": "OUT", "help": "the new folder"},
    )


def run_clip(options: Clip) -> int:
    """The command ``clip``."""
    with tqdm(total=options.cameras * options.frames, unit=" frames", disable=None) as bar:
        write_clip(options, options.out, bar.update)
    print(f"{options.out}: {options.cameras} videos with their tracks")
    print(f"next: python -m transreid_ssl.data tracks {options.out} --out pool")
    return 0


def run_tracks(options: Tracks) -> int:
    """The command ``tracks``."""
    if options.paths == [DEMO] and not Path(_DEMO_CLIP).exists():
        run_clip(Clip())
    pool, reasons = _find_crops(options)
    print(f"{pool.describe()} to crop: {pool.tracks.describe()}")
    print(f"left out: {describe_left_out(reasons)}", flush=True)
    with tqdm(total=len(pool), unit=" crops", disable=None, leave=False) as bar:
        complaints = pack(
            pool, options.out, options.rows_per_shard, bar.update, num_workers=options.num_workers
        )
    reasons = Counter(line.rpartition(": ")[2] for line in complaints)
    print(f"left out when they were seen: {describe_left_out(reasons)}")
    print(f"{options.out}: {len(pool) - len(complaints):,} crops; --data.pool {options.out}")
    print(f"next: python -m transreid_ssl.data inspect {options.out}")
    return 0


def _find_crops(options: Tracks) -> tuple[ScreenedCrops, Counter]:
    """What the user named, as crops that are still to be cut or looked at."""
    paths = [_DEMO_CLIP if path == DEMO else path for path in options.paths]
    given = Path(options.tracks) if options.tracks else None
    source = ", ".join(paths)
    if options.format not in LAYOUTS:
        videos, notes = find_videos([Path(path) for path in paths], given)
        if videos:
            print("\n".join(f"note: {note}" for note in notes), end="\n" * bool(notes))
            return crops_of_videos(
                source, videos, options.rules, options.format, tuple(options.classes),
                options.first_frame, options.pattern,
            )  # fmt: skip
    if given is not None or options.format in FORMATS:
        raise UserError(f"{source}: no video and no folder of frames; give their place")
    pools = [open_pool(path) for path in paths]
    pool = pools[0] if len(pools) == 1 else ConcatPool(pools, [Path(path).name for path in paths])
    layout = options.format or (None if options.pattern else layout_of(pool))
    if layout is None and options.pattern is None:
        raise UserError(
            f"{source}: neither videos with tracks nor crops with names of {', '.join(LAYOUTS)}; "
            "give --pattern with the groups track and frame, and perhaps camera"
        )
    return crops_of_pool(pool, options.pattern or LAYOUTS[layout], options.rules)
