"""Unlabelled crops: what a pool is, and the pools of plain files.

``open_pool`` tells what a path holds: a folder tree of images, a list of paths, Parquet shards
(``shards.py``), LUPerson's LMDB (``lmdb_pool.py``) or generated people (``people.py``).
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.index import Names

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class Pool:
    """Encoded images with stable names. Subclasses give ``read`` and set ``source`` and ``names``.

    ``source`` is the specification that ``open_pool`` opens it with again. A pool is pickled when
    a worker process starts, so it holds no open file and no long Python list.
    """

    kind = "pool"

    def __init__(self, source: str, names: Sequence[str]) -> None:
        self.source = source
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image.

        Raises:
            CorruptImage: the image cannot be read.
        """
        raise NotImplementedError

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
        super().__init__(pool.source, pool.arrow_names().take(self.indices))

    def read(self, index: int) -> bytes:
        """The bytes of the image in the whole pool."""
        return self.pool.read(int(self.indices[index]))

    def describe(self) -> str:
        """The whole pool's line, and how much of it this is."""
        return f"{self.pool.describe()}; {self.note}: {len(self):,} images"
