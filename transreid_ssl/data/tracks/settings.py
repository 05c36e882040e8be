"""Settings of pools of tracks and of the clips that try them; nothing slow is imported here."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from transreid_ssl.command import positional
from transreid_ssl.errors import check_ranges
from transreid_ssl.outputs import OUTPUTS

DEMO = "demo"
DEMO_CLIP = f"{OUTPUTS}/clip"


@dataclass(frozen=True)
class CropRules:
    """What a crop must be like.

    Args:
        margin: Added on each side, as a share of the box's height or width.
        min_height: Lower boxes are left out, in pixels.
        min_score: Boxes of which the detector was less sure are left out.
        max_overlap: Boxes of which another box of the frame covers a larger share are left out.
        keep_truncated: Keep boxes that end at the border of the frame.
        every: Frames at least from one crop of a track to its next.
        min_sharpness: Crops of which the Laplacian varies less are left out as blurred.
        min_change: Grey levels that a crop differs by, on average, from the one kept before it of
            its track, both made small; less is a near-duplicate.
    """

    margin: float = 0.05
    min_height: int = 48
    min_score: float = 0.0
    max_overlap: float = 0.6
    keep_truncated: bool = False
    every: int = 5
    min_sharpness: float = 10.0
    min_change: float = 2.0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            margin=(0, 1),
            min_height=(1, None),
            max_overlap=(0, 1),
            every=(1, None),
            min_score=(None, None),
            min_sharpness=(0, None),
            min_change=(0, None),
        )


@dataclass(frozen=True)
class ClipConfig:
    """What to film.

    Args:
        people: How many walk past each camera; those of one number are one person in all.
        cameras: How many cameras, each a video.
        frames: Of each video, at 10 a second.
        height: Of a frame, in pixels; it is 4/3 as wide.
        seed: Another seed is another clip.
    """

    people: int = 8
    cameras: int = 2
    frames: int = 120
    height: int = 240
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            people=(1, 10_000),
            cameras=(1, 1_000),
            frames=(1, 10**6),
            height=(96, 2_160),
            seed=(0, 2**63 - 1),
        )


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

    paths: list[str] = positional("PATH", "what is read", default=(DEMO,))
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

    out: str = positional("OUT", "the new folder", "?", DEMO_CLIP)
