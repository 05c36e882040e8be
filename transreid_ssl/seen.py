"""What tells that images are those of before: the times and sizes of their files, and few bytes."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from transreid_ssl.files import fingerprint

_SUMS = 1 << 63  # different stamps
_SAMPLED = 4096  # images of all, and twice as many at most
_BETWEEN_TICKS = 64  # images


class Images(Protocol):
    """What is asked of a pool (``data.Pool``)."""

    def __len__(self) -> int: ...

    def stamps(self, places: Sequence[int]) -> np.ndarray:
        """See there."""
        ...

    def checksum(self, places: Sequence[int]) -> int:
        """See there."""
        ...


@dataclass(frozen=True)
class Seen:
    """How the files of some images were found.

    Those of several parts are added up, to the same whatever parts there are. All but ``stamp`` are
    of newer versions of the program.

    Args:
        stamp: A number for when all were written, and for their sizes.
        sizes: One for the sizes alone.
        times: When a few of them, evenly spread, were written.
        content: A number for the bytes of these few; None: not read yet.
    """

    stamp: int
    sizes: int | None = None
    times: tuple[int, ...] = ()
    content: int | None = None

    @classmethod
    def of(cls, pool: Images, places: range) -> "Seen":
        """Look at the files of images; their bytes are not read."""
        pairs = pool.stamps(places).tolist()
        texts = (f"{place} {time} {size}" for place, (time, size) in zip(places, pairs))
        stamp = sum(int(fingerprint([text]), 16) for text in texts) % _SUMS
        sizes = sum(zlib.crc32(b"%d" % size, place) for place, (_, size) in zip(places, pairs))
        times = tuple(pairs[place - places.start][0] for place in sampled(pool, places))
        return cls(stamp, sizes, times)

    @classmethod
    def sum(cls, parts: Iterable["Seen"]) -> "Seen":
        """Of all images of several parts."""
        found = list(parts)
        times = tuple(time for part in found for time in part.times)
        return cls(
            sum(part.stamp for part in found) % _SUMS, _sum(part.sizes for part in found), times,
            _sum(part.content for part in found),
        )  # fmt: skip

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Seen | None":
        """What ``to_record`` gave; None of a record that says nothing."""
        if record.get("stamp") is None:
            return None
        more = record.get("seen") or {}
        return cls(record["stamp"], **more | {"times": tuple(more.get("times", ()))})

    def to_record(self) -> dict[str, Any]:
        """For the record of a table."""
        more = asdict(self)
        return {"stamp": more.pop("stamp"), "seen": more}

    def may_be_copied(self, now: "Seen") -> bool:
        """Whether the files of ``now`` can be copies: other times of all, and the same sizes.

        Where some were written anew in their place, others have their times.
        """
        pairs = zip(self.times, now.times)
        return (
            self.content is not None
            and len(self.times) > 0
            and self.sizes == now.sizes
            and len(self.times) == len(now.times)
            and all(before != after for before, after in pairs)
        )


def content_of(
    pool: Images, places: range, tick: Callable[[int], object] = lambda count: None
) -> int:
    """``Seen.content``: reads the few images; ``tick`` is told how many more are read."""
    found, sample = 0, sampled(pool, places)
    for begin in range(0, len(sample), _BETWEEN_TICKS):
        some = sample[begin : begin + _BETWEEN_TICKS]
        found += pool.checksum(some)
        tick(len(some))
    return found


def sampled(pool: Images, places: range) -> range:
    """Those of the places whose images are looked into: all of a small pool."""
    apart = max(1, len(pool) // _SAMPLED)
    return range(-(-places.start // apart) * apart, places.stop, apart)


def _sum(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if None in found else sum(found)
