"""Opening unlabelled crops by what a path holds."""

import os
from pathlib import Path

from transreid_ssl.data import lmdb_pool, shards
from transreid_ssl.data.folder import ARCHIVES, OTHER_FORMATS, FolderPool, is_utf8
from transreid_ssl.data.lists import ListPool
from transreid_ssl.data.people import PeoplePool
from transreid_ssl.data.pool import EXTENSIONS, FilesPool, Pool
from transreid_ssl.data.subset import take_subset
from transreid_ssl.errors import UserError


def open_pool(path: str | Path, subset: str | Path | None = None, ready: bool = True) -> Pool:
    """Open unlabelled crops by what ``path`` is.

    - a folder tree of images;
    - a text list of image paths (.txt), or a Parquet table of paths in a column ``image``, both
      relative to the list's own folder or absolute;
    - one image;
    - Parquet shards of images as HuggingFace ``datasets`` writes them: a folder or one file;
    - LUPerson's LMDB: the folder with ``data.mdb`` (needs the extra ``lmdb``);
    - ``demo`` or ``demo:key=value,…``: generated people, nothing on disk.

    ``subset`` is a table or list, as CFS selection writes it, of names that must be in the pool.
    Without ``ready``, compressed shards are decoded when an image is read first: for who may want
    their names alone.

    Raises:
        UserError: nothing there, nothing usable in it, or a subset of another pool.
    """
    pool = _open_whole(str(path), ready)
    return pool if subset is None else take_subset(pool, subset)


def open_tracks(path: str, subset: str | None = None) -> Pool:
    """A pool that knows the tracks of its images.

    Raises:
        UserError: there is none, or it does not know them.
    """
    made_by = "`python -m transreid_ssl.data tracks`"
    if path.partition(":")[0] != "demo" and not os.path.exists(path):
        raise UserError(f"{path or 'no pool'}: no pool of tracks is there; {made_by} makes one")
    pool = open_pool(path, subset)
    if pool.tracks is None:
        raise UserError(f"{pool.source}: knows no tracks; give a pool that {made_by} made")
    return pool


def _open_whole(path: str, ready: bool) -> Pool:
    if path.partition(":")[0] == "demo" and not os.path.exists(path):
        return PeoplePool.from_spec(path)
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder; give a pool of images, or 'demo'")
    if not is_utf8(path):
        raise UserError(f"{path}: a path that is not UTF-8 text; rename it")
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise UserError(f"{path}: neither a file nor a folder; give a pool of images, or 'demo'")
    if lmdb_pool.find_database(path):
        return lmdb_pool.LMDBPool(path)
    if shards.find_shards(path):
        return shards.ParquetShardsPool(path, ready)
    if os.path.isdir(path):
        return FolderPool(path)
    if path.lower().endswith((*EXTENSIONS, *OTHER_FORMATS)):
        return FilesPool(path, os.path.dirname(os.path.abspath(path)), [os.path.basename(path)])
    if path.lower().endswith(ARCHIVES):
        raise UserError(f"{path}: an archive; unpack it, and give the folder")
    return ListPool(path)
