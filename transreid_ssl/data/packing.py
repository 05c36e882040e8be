"""Writing pools and protocols: into Parquet shards or an LMDB, and generated people as files."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from transreid_ssl import __version__
from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.lmdb_pool import write_lmdb
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.people import PeopleConfig, PeoplePool, people_protocol, sheet
from transreid_ssl.data.pool import Pool
from transreid_ssl.data.reid import LabelledImages
from transreid_ssl.data.shards import write_shards
from transreid_ssl.errors import UserError
from transreid_ssl.files import continued_folder, fingerprint, new_folder, write_text
from transreid_ssl.reading import read_lines
from transreid_ssl.words import counted

Tick = Callable[[], object]

_LEFT_OUT = "left_out.txt"
_KEY = ".finished"
"""The file of a packed pool that says which call has finished it."""
_COMPARED = 8  # images of a finished pool


def pack(
    pool: Pool,
    out: str | Path,
    rows_per_shard: int = 20_000,
    tick: Tick = lambda: None,
    kind: Literal["parquet", "lmdb"] = "parquet",
    num_workers: int = 0,
) -> list[str]:
    """Write ``pool`` into the new folder ``out``; returns what was left out.

    ``kind`` is "parquet", shards of ``rows_per_shard`` images by ``num_workers`` processes, or
    "lmdb", LUPerson's layout, which holds no tracks. Broken images are left out; ``left_out.txt``
    in ``out`` lists them. What is stopped leaves its finished shards, or the images in the LMDB, in
    ``out``.unfinished, and the same call goes on from there; images that were left out are looked
    at again. Where the same call has finished before, nothing is done.

    Raises:
        UserError: ``out`` holds something else, cannot be written, or no image is sound;
            ``out``.unfinished is of other images (one in a thousand is compared) or settings.
    """
    if (known := finished(pool, out, rows_per_shard, kind)) is not None:
        return known
    left_out, key = [], _key(pool, rows_per_shard, kind)
    with continued_folder(out, key) as folder:
        lmdb = kind == "lmdb"
        images = (
            write_lmdb(pool, folder)
            if lmdb
            else write_shards(pool, folder, rows_per_shard, num_workers)
        )
        with closing(images) as written:
            for complaint in written:
                if complaint:
                    left_out.append(complaint)
                tick()
        if len(left_out) == len(pool):
            shutil.rmtree(folder)
            raise UserError(f"{pool.source}: not one image can be read (such as {left_out[0]})")
        (folder / _LEFT_OUT).unlink(missing_ok=True)  # of an end that failed
        if left_out:
            write_text(folder / _LEFT_OUT, "\n".join(left_out) + "\n")
        write_text(folder / _KEY, key)
    return left_out


def _key(pool: Pool, rows_per_shard: int, kind: str) -> str:
    """What the content of a packed pool follows from."""
    return fingerprint([pool.fingerprint, kind, str(rows_per_shard), __version__])


def finished(
    pool: Pool, out: str | Path, rows_per_shard: int = 20_000, kind: str = "parquet"
) -> list[str] | None:
    """What was left out of a packing that the same call has finished; None if nothing is there.

    Raises:
        UserError: another pool is there, a part of this one is gone, or it is of other images of
            the same names (a few are compared).
    """
    out = Path(out)
    record, left_out = out / _KEY, out / _LEFT_OUT
    if record.is_file() and record.read_bytes() == _key(pool, rows_per_shard, kind).encode():
        known = [*filter(None, read_lines(left_out))] if left_out.is_file() else []
        _require_whole(out, pool, len(pool) - len(known))
        return known
    if not out.name or not out.is_dir() or not any(out.iterdir()):
        return None
    try:
        found = open_pool(out)
    except UserError:
        return None  # none of ours, and refused as such
    raise UserError(
        f"{out}: is there already, a pool of {counted(len(found), 'image')}, and not marked as "
        "made of these with these settings; use it as it is, remove it, or choose another folder"
    )


def _require_whole(out: Path, pool: Pool, count: int) -> None:
    """Refuse a finished pool that has no longer its ``count`` images, or no longer those of now."""
    packed = open_pool(out)
    if len(packed) != count:
        raise UserError(
            f"{out}: holds {counted(len(packed), 'image')} of {count:,}: a file in it is gone; "
            "remove it, and run the same command again"
        )
    few = np.unique(np.linspace(0, count - 1, _COMPARED).astype(int))
    for number, place in zip(few.tolist(), pool.arrow_names().find(packed.arrow_names().take(few))):
        try:
            pool.require_same(int(place), packed.read(number), out)
        except CorruptImage as error:
            raise UserError(f"{out}: {error}; remove it, and run the same command again") from error


def write_demo(config: PeopleConfig, out: str | Path, tick: Tick = lambda: None) -> None:
    """Write generated people as files, to look at and to try commands that want a path.

    ``out`` gets ``pool/`` (unlabelled crops), ``market1501/`` (train, query and test in
    Market-1501's layout and naming) and ``sheet.png`` (eight persons, one a row).

    Raises:
        UserError: ``out`` exists or cannot be written.
    """
    protocol = people_protocol(config)
    with new_folder(out) as folder:
        _write_files(PeoplePool(config), None, folder / "pool", tick)
        parts = (protocol.train, protocol.query, protocol.gallery)
        persons = np.unique(np.concatenate([part.identities for part in parts]))
        cameras = np.unique(np.concatenate([part.cameras for part in parts]))
        for part, name in zip(parts, ("bounding_box_train", "query", "bounding_box_test")):
            # Market-1501 counts persons and cameras from 1; its 0000 are distractors.
            labels = zip(
                np.searchsorted(persons, part.identities) + 1,
                np.searchsorted(cameras, part.cameras) + 1,
            )
            names = [f"{p:04d}_c{c}s1_{i:06d}_00.jpg" for i, (p, c) in enumerate(labels)]
            _write_files(part, names, folder / "market1501" / name, tick)
        picture = cv2.cvtColor(sheet(config, columns=10), cv2.COLOR_RGB2BGR)
        (folder / "sheet.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())


def _write_files(
    images: Pool | LabelledImages, names: list[str] | None, folder: Path, tick: Tick
) -> None:
    folder.mkdir(parents=True)
    for index in range(len(images)):
        name = images.names[index] if names is None else names[index]
        (folder / name).write_bytes(images.read(index))
        tick()
