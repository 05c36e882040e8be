"""Whether two pools hold the same images, wherever each of them lies and whatever it is made of."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.index import Names
from transreid_ssl.data.pool import Pool
from transreid_ssl.data.subset import base_names
from transreid_ssl.progress import is_first, progress

_COMPARED = 16  # images
_NAMESAKES = 16  # that one of them is compared with
_DEPTH = 4  # folders that two names may have, together, before what they share
_WAYS = (_DEPTH + 1) * (_DEPTH + 2) // 2  # to share them out


def shared_images(images: Pool, others: Pool) -> float:
    """The share, 0 to 1, of ``images`` that ``others`` hold too: of the same name and bytes.

    Packing, listing or taking tracks of crops keeps their names, but for folders before them. All
    names are compared, and the bytes of some images whose names are found, evenly spread.
    """
    looked = f"ways to find names in {others.source} looked at"
    with progress(_WAYS, looked, is_first()) as tick:
        for mine, theirs, places in _pairings(images.arrow_names(), others.arrow_names()):
            named = np.flatnonzero(theirs.find(mine) >= 0)
            if len(named) and (share := _same_share(images, others, mine, theirs, named, places)):
                return share * len(named) / len(images)
            tick()
    return 0.0


def _same_share(
    images: Pool, others: Pool, mine: Names, theirs: Names, named: np.ndarray, places: np.ndarray
) -> float:
    """Of some images whose names are found, the share that have the bytes of a namesake.

    Args:
        mine, theirs: Names that were compared, of all images and of others.
        named: Which images were found, int64 (M,).
        places: Where the others are in their pool.
    """
    few = named[np.unique(np.linspace(0, len(named) - 1, _COMPARED).astype(int))]
    same = 0
    for index in few.tolist():
        namesakes = pc.equal(theirs.column, pa.scalar(mine[index], pa.large_string()))
        candidates = places[np.flatnonzero(namesakes)[:_NAMESAKES]]
        same += any(_is_same(images, index, others, place) for place in candidates.tolist())
    return same / len(few)


def _pairings(mine: Names, theirs: Names) -> Iterator[tuple[Names, Names, np.ndarray]]:
    """Names to compare: as they are, then with folders left out at their beginnings.

    Of the other pool only names that end like one of mine, with their places in it.
    """
    alike = pc.is_in(base_names(theirs).column, value_set=base_names(mine).column)
    places = np.flatnonzero(alike)
    few = theirs.take(places)
    for depth in range(_DEPTH + 1):
        for here in range(depth + 1):
            yield _without_folders(mine, here), _without_folders(few, depth - here), places


def _without_folders(names: Names, count: int) -> Names:
    """The names without their first ``count`` folders; the same ones where count is 0."""
    if not count:
        return names
    return Names(pc.replace_substring_regex(names.column, rf"^([^/]*/+){{{count}}}", ""))


def _is_same(images: Pool, mine: int, others: Pool, theirs: int) -> bool:
    try:
        return images.read(mine) == others.read(theirs)
    except CorruptImage:
        return False
