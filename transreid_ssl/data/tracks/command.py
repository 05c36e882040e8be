"""The commands ``tracks`` and ``clip`` of ``python -m transreid_ssl.data``."""

import shlex
from collections import Counter
from pathlib import Path

from transreid_ssl.data.open import open_pool
from transreid_ssl.data.packing import finished, pack
from transreid_ssl.data.people.clip import write_clip
from transreid_ssl.data.pool import ConcatPool
from transreid_ssl.data.tracks.formats import FORMATS
from transreid_ssl.data.tracks.pool import (
    LAYOUTS,
    ScreenedCrops,
    crops_of_pool,
    crops_of_videos,
    describe_left_out,
    layout_of,
)
from transreid_ssl.data.tracks.settings import DEMO, DEMO_CLIP, Clip, Tracks
from transreid_ssl.data.tracks.sources import find_videos
from transreid_ssl.errors import UserError
from transreid_ssl.hints import say_next
from transreid_ssl.outputs import DONE
from transreid_ssl.progress import progress
from transreid_ssl.words import counted


def run_clip(options: Clip) -> int:
    """The command ``clip``."""
    _write_clip(options)
    files, pool = (shlex.quote(f"{Path(options.out)}{end}") for end in ("", "_pool"))
    say_next(f"python -m transreid_ssl.data tracks {files} --out {pool}")
    return 0


def _write_clip(options: Clip) -> None:
    with progress(options.cameras * options.frames, "frames") as tick:
        write_clip(options, options.out, tick)
    print(f"{options.out}: {options.cameras} videos with their tracks")


def run_tracks(options: Tracks) -> int:
    """The command ``tracks``."""
    if options.paths == [DEMO] and not Path(DEMO_CLIP).exists():
        _write_clip(Clip())
    pool, reasons = _find_crops(options)
    print(f"{pool.describe()} to crop: {pool.tracks.describe()}")
    print(f"left out: {describe_left_out(reasons)}", flush=True)
    if finished(pool, options.out, options.rows_per_shard) is not None:
        print(f"{options.out}: {DONE}")
    with progress(len(pool), "crops") as tick:
        complaints = pack(
            pool, options.out, options.rows_per_shard, tick, num_workers=options.num_workers
        )
    reasons = Counter(line.rpartition(": ")[2] for line in complaints)
    print(f"left out when they were seen: {describe_left_out(reasons)}")
    print(f"{options.out}: {counted(len(pool) - len(complaints), 'crop')}")
    say_next(f"python -m transreid_ssl.data inspect {shlex.quote(options.out)}")
    return 0


def _find_crops(options: Tracks) -> tuple[ScreenedCrops, Counter[str]]:
    """What the user named, as crops that are still to be cut or looked at."""
    paths = [DEMO_CLIP if path == DEMO else path for path in options.paths]
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
