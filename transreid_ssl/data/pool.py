"""Unlabelled crops: what a pool is, and pools of plain files and of other pools."""

import contextlib
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from transreid_ssl.data.images import CorruptImage, decode
from transreid_ssl.data.index import Names
from transreid_ssl.data.track_columns import Tracks
from transreid_ssl.errors import UserError
from transreid_ssl.reading import read_regular
from transreid_ssl.words import counted

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_MAX_BYTES = 1 << 28  # as many as the largest image takes that is decoded


class Pool(ABC):
    """Encoded images with stable names. Subclasses give ``read`` and set ``source`` and ``names``.

    ``source`` is the specification that ``open_pool`` opens it with again, ``notes`` say in words
    what was left out. A pool is pickled when a worker process starts, so it holds no open file and
    no long Python list.
    """

    kind: str = "pool"
    generated: bool = False
    """Whether the images are drawn by this program: such a pool holds no broken file."""
    selective: bool = False
    """Whether ``read_in_order`` leaves images out for what they are: such a choice is final, while
    a broken image may have been repaired."""
    annotations: pa.Table | None = None
    """What is known of each image, in order: a table with ``track_columns.COLUMNS``, or None."""

    def __init__(self, source: str, names: Sequence[str], notes: Sequence[str] = ()) -> None:
        self.source = source
        self.names = names
        self.notes: tuple[str, ...] = tuple(notes)

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

    def read_in_order(self, indices: Iterable[int]) -> Iterator[bytes | CorruptImage]:
        """For each of the images its bytes, as ``read_sound`` gives them, or why there are none."""
        for index in indices:
            try:
                yield self.read_sound(index)
            except CorruptImage as error:
                yield error

    def stamps(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """When the files that hold these images were written, and their sizes: int64 (M, 2).

        They tell images that were written anew under their names, unread. Nanoseconds since 1970
        and bytes; zeros of a file that cannot be looked at, and where there is none.
        """
        return np.zeros((len(places), 2), np.int64)

    def checksum(self, places: Sequence[int] | np.ndarray) -> int:
        """A number for the bytes of images at these places; those of parts of them add up to it.

        Broken ones count as none.
        """
        found = 0
        for place in map(int, places):
            with contextlib.suppress(CorruptImage):
                found += zlib.crc32(self.read(place), place)
        return found

    def require_same(self, index: int, encoded: bytes, where: Path) -> None:
        """Compare an image with the bytes that were kept of it when other work was begun.

        Raises:
            UserError: it is another one; ``where`` they were kept is named.
        """
        try:
            same = self.read(index) == encoded
        except CorruptImage:
            return  # it was sound when it was read
        if not same:
            raise UserError(
                f"{where}: was begun with other images of the same names ({self.names[index]}); "
                "remove it, or choose another folder"
            )

    def describe(self) -> str:
        """One line for people: how many images, and what was left out or is odd."""
        count = counted(len(self), "image")
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{self.kind} {self.source}: {count}{notes}"

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the names in their order: equal for equal pools on every machine."""
        return self.arrow_names().digest

    @cached_property
    def tracks(self) -> Tracks | None:
        """The camera, video, track and frame of each image, or None where they are not known."""
        return None if self.annotations is None else Tracks.of(self.annotations)

    def arrow_names(self) -> Names:
        """The names as one Arrow column, for look-ups of many at once."""
        return self.names if isinstance(self.names, Names) else Names.of(self.names)


class FilesPool(Pool):
    """Image files: ``names`` are paths relative to ``root`` (an absolute one stands for itself)."""

    kind = "files"

    root: str

    def __init__(
        self, source: str, root: str | Path, names: Sequence[str], notes: Sequence[str] = ()
    ) -> None:
        super().__init__(source, names, notes)
        self.root = str(root)

    def read(self, index: int) -> bytes:
        """The bytes of the file."""
        name = self.names[index]
        try:
            encoded = read_regular(os.path.join(self.root, name), _MAX_BYTES + 1)
        except OSError as error:
            raise CorruptImage(name, f"cannot be read ({error.strerror})") from error
        if len(encoded) > _MAX_BYTES:
            raise CorruptImage(name, f"larger than {_MAX_BYTES >> 20} MiB")
        return encoded

    def stamps(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """Of each image's own file."""
        paths = (os.path.join(self.root, self.names[int(place)]) for place in places)
        return np.array([file_stamp(path) for path in paths], np.int64).reshape(-1, 2)


class SubsetPool(Pool):
    """The images of another pool at ``indices`` int64 (M,), in that order."""

    generated: bool

    def __init__(self, pool: Pool, indices: np.ndarray, note: str = "a part") -> None:
        self.pool = pool
        self.indices: np.ndarray = np.asarray(indices, dtype=np.int64)
        self.note = note
        self.generated = pool.generated
        super().__init__(pool.source, pool.arrow_names().take(self.indices))

    def read(self, index: int) -> bytes:
        """The bytes of the image in the whole pool."""
        return self.pool.read(int(self.indices[index]))

    def stamps(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """Those of the images in the whole pool."""
        return self.pool.stamps(self.indices[np.asarray(places, np.int64)])

    @cached_property
    def annotations(self) -> pa.Table | None:
        """The rows of the whole pool's."""
        whole = self.pool.annotations
        return None if whole is None else whole.take(self.indices)

    def __reduce__(self) -> tuple[Any, ...]:
        # Names are taken anew from the mapped index: cheaper than sending millions of strings.
        return SubsetPool, (self.pool, self.indices, self.note)

    def describe(self) -> str:
        """The whole pool's line, and how much of it this is."""
        return f"{self.pool.describe()}; {self.note}: {counted(len(self), 'image')}"


class ConcatPool(Pool):
    """Several pools one after the other; names get their pool's ``label`` in front."""

    def __init__(self, pools: Sequence[Pool], labels: Sequence[str]) -> None:
        self.pools: list[Pool] = list(pools)
        self._ends = np.cumsum([len(pool) for pool in pools])
        names = [f"{label}/{name}" for label, pool in zip(labels, pools) for name in pool.names]
        super().__init__(",".join(pool.source for pool in pools), Names.of(names))

    def read(self, index: int) -> bytes:
        """The bytes of the image in its own pool."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.pools[which].read(index - int(self._ends[which]) + len(self.pools[which]))

    def stamps(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """Those of each image in its own pool."""
        places, found = np.asarray(places, np.int64), np.zeros((len(places), 2), np.int64)
        whose = np.searchsorted(self._ends, places, side="right")
        for number, pool in enumerate(self.pools):
            mine = whose == number
            found[mine] = pool.stamps(places[mine] - int(self._ends[number]) + len(pool))
        return found


def file_stamp(path: str | Path) -> tuple[int, int]:
    """When a file was written, in nanoseconds since 1970, and its size; zeros if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return 0, 0
    return status.st_mtime_ns, status.st_size
