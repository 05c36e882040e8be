"""Unlabelled crops: what a pool is, and the pools of plain files.

``open_pool`` tells what a path holds: a folder tree of images, a list of paths, Parquet shards
(``shards.py``), LUPerson's LMDB (``lmdb_pool.py``) or generated people (``people.py``).
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from transreid_ssl.data.images import CorruptImage, decode
from transreid_ssl.data.index import Names
from transreid_ssl.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class Pool(ABC):
    """Encoded images with stable names. Subclasses give ``read`` and set ``source`` and ``names``.

    ``source`` is the specification that ``open_pool`` opens it with again. A pool is pickled when
    a worker process starts, so it holds no open file and no long Python list.
    """

    kind = "pool"
    generated = False
    """Whether the images are drawn by this program: such a pool holds no broken file."""

    def __init__(self, source: str, names: Sequence[str]) -> None:
        self.source = source
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded bytes of one image.

        Raises:
            CorruptImage: the image cannot be read.
        """

    def read_sound(self, index: int) -> bytes:
        """The same, of an image that was found to decode.

        Raises:
            CorruptImage: the image cannot be read or decoded.
        """
        encoded = self.read(index)
        decode(encoded, self.names[index])
        return encoded

    def describe(self) -> str:
        """One line for people."""
        return f"{self.kind} {self.source}: {len(self):,} images"

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the names in their order: equal for equal pools on every machine."""
        return self.arrow_names().digest

    def arrow_names(self) -> Names:
        """The names as one Arrow column, for look-ups of many at once."""
        return self.names if isinstance(self.names, Names) else Names.of(self.names)


class FilesPool(Pool):
    """Image files: ``names`` are paths relative to ``root`` (an absolute one stands for itself)."""

    kind = "files"

    def __init__(self, source: str, root: str | Path, names: Sequence[str]) -> None:
        super().__init__(source, names)
        self.root = str(root)

    def read(self, index: int) -> bytes:
        """The bytes of the file."""
        name = self.names[index]
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                return file.read()
        except OSError as error:
            raise CorruptImage(name, f"cannot be read ({error.strerror})") from error


class SubsetPool(Pool):
    """The images of another pool at ``indices`` int64 (M,), in that order."""

    def __init__(self, pool: Pool, indices: np.ndarray, note: str = "a part") -> None:
        self.pool = pool
        self.indices = np.asarray(indices, dtype=np.int64)
        self.note = note
        self.generated = pool.generated
        super().__init__(pool.source, pool.arrow_names().take(self.indices))

    def read(self, index: int) -> bytes:
        """The bytes of the image in the whole pool."""
        return self.pool.read(int(self.indices[index]))

    def __reduce__(self) -> tuple[Any, ...]:
        # Names are taken anew from the mapped index: cheaper than sending millions of strings.
        return SubsetPool, (self.pool, self.indices, self.note)

    def describe(self) -> str:
        """The whole pool's line, and how much of it this is."""
        return f"{self.pool.describe()}; {self.note}: {len(self):,} images"


class ConcatPool(Pool):
    """Several pools one after the other; names get their pool's ``label`` in front."""

    def __init__(self, pools: Sequence[Pool], labels: Sequence[str]) -> None:
        self.pools = list(pools)
        self._ends = np.cumsum([len(pool) for pool in pools])
        names = [f"{label}/{name}" for label, pool in zip(labels, pools) for name in pool.names]
        super().__init__(",".join(pool.source for pool in pools), Names.of(names))

    def read(self, index: int) -> bytes:
        """The bytes of the image in its own pool."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.pools[which].read(index - int(self._ends[which]) + len(self.pools[which]))


def open_pool(path: str | Path, subset: str | Path | None = None) -> Pool:
    """Open unlabelled crops by what ``path`` is.

    - a folder tree of images;
    - a text list of image paths (.txt), or a Parquet table of paths in a column ``image``, both
      relative to the list's own folder or absolute;
    - Parquet shards of images as HuggingFace ``datasets`` writes them: a folder or one file;
    - LUPerson's LMDB: the folder with ``data.mdb`` (needs the extra ``lmdb``);
    - ``demo`` or ``demo:key=value,…``: generated people, nothing on disk.

    ``subset`` is a table or list, as CFS selection writes it, of names that must be in the pool.

    Raises:
        UserError: nothing there, nothing usable in it, or a subset of another pool.
    """
    pool = _open_whole(str(path))
    if subset is None:
        return pool
    from transreid_ssl.data.subset import take_subset

    return take_subset(pool, subset)


def _open_whole(path: str) -> Pool:
    """Readers are imported where they are needed: ``datasets`` alone takes a second."""
    if path.partition(":")[0] == "demo" and not os.path.exists(path):
        from transreid_ssl.data.people import PeoplePool

        return PeoplePool.from_spec(path)
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder; give a pool of images, or 'demo'")
    from transreid_ssl.data import lmdb_pool, shards
    from transreid_ssl.data.folder import FolderPool, ListPool

    if lmdb_pool.find_database(path):
        return lmdb_pool.LMDBPool(path)
    if shards.find_shards(path):
        return shards.ParquetShardsPool(path)
    return FolderPool(path) if os.path.isdir(path) else ListPool(path)
