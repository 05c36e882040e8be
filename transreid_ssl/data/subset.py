"""Taking a named part of a pool, and refusing a list that was made from another one."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transreid_ssl.data.index import Names
from transreid_ssl.data.lists import read_names
from transreid_ssl.data.pool import EXTENSIONS, Pool, SubsetPool
from transreid_ssl.errors import UserError
from transreid_ssl.words import counted, part_of

_EXTENSION = r"(?i)(" + "|".join(re.escape(extension) for extension in EXTENSIONS) + r")$"


def take_subset(pool: Pool, path: str | Path) -> SubsetPool:
    """The images of ``pool`` that the list or table at ``path`` names, in its order.

    Names are compared exactly. LUPerson's crops circulate with and without a leading ``images/``
    and a file extension, so a name that is unknown is compared again without its extension, and
    counts as the one image whose path ends in it (or the other way round); ``describe()`` says so.

    Raises:
        UserError: the file cannot be read, is empty, or names images that the pool lacks.
    """
    wanted, known = read_names(path), pool.arrow_names()
    if not len(wanted):
        raise UserError(f"{path}: the subset is empty")
    indices = known.find(wanted)
    missing = np.flatnonzero(indices < 0)
    note = f"subset {path}"
    if len(missing):
        indices[missing] = _find_loosely(known, wanted.take(missing))
        unknown = np.flatnonzero(indices < 0)
        if len(unknown):
            raise UserError(
                f"{path}: {part_of(len(unknown), len(wanted), 'name', verb='is/are', its='its')} "
                "not in the pool "
                f"{pool.source} (such as {wanted[int(unknown[0])]!r}): this subset belongs to "
                "another pool; give the pool that it was selected from"
            )
        note += f" ({len(missing):,} matched without folder or extension)"
    first = np.sort(np.unique(indices, return_index=True)[1])
    if len(first) < len(indices):
        note += f" ({counted(len(indices) - len(first), 'repeated name')} counted once)"
    return SubsetPool(pool, indices[first], note)


def base_names(names: Names) -> Names:
    """The names without their folders and without the extension of an image."""
    return _base(_without_extension(names))


def _find_loosely(known: Names, wanted: Names) -> np.ndarray:
    """Positions int64 (M,) of names equal but for leading folders and extension; -1: not one."""
    known_stems, wanted_stems = _without_extension(known), _without_extension(wanted)
    known_bases, wanted_bases = _base(known_stems), _base(wanted_stems)
    counts = pc.value_counts(known_bases.column)
    unique = Names(counts.field("values").filter(pc.equal(counts.field("counts"), 1)))
    indices = np.where(unique.find(wanted_bases) >= 0, known_bases.find(wanted_bases), -1)
    candidates = np.flatnonzero(indices >= 0)
    pairs = zip(known_stems.take(indices[candidates]), wanted_stems.take(candidates))
    same = np.fromiter((_same_end(*pair) for pair in pairs), bool, len(candidates))
    indices[candidates[~same]] = -1
    return indices


def _same_end(one: str, other: str) -> bool:
    one, other = f"/{one}", f"/{other}"
    return one.endswith(other) or other.endswith(one)


def _without_extension(names: Names) -> Names:
    return Names(pc.replace_substring_regex(names.column, _EXTENSION, ""))


def _base(names: Names) -> Names:
    bases = pc.replace_substring_regex(names.column, "^.*/", "")
    return Names(bases.cast(pa.large_string()))
