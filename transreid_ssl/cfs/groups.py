"""What the images of a pool have in common: their folder, their track, or how they look."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transreid_ssl.errors import UserError

Kind = Literal["source", "track", "cluster"]
_BLOCK = 65_536
_LEARNT_FROM = 100_000


@dataclass(frozen=True)
class Groups:
    """``codes`` int64 (N,), the group of each image, and the ``labels`` of the groups."""

    codes: np.ndarray
    labels: Sequence[str]

    def shares(self, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The share float64 (G,) that each group has in the images chosen."""
        counts = np.bincount(self.codes[chosen], minlength=len(self.labels))
        return counts / max(1, counts.sum())


def by_folder(names: pa.Array | pa.ChunkedArray) -> Groups:
    """By the folder that an image lies in: the name up to its last slash."""
    return _encode(pc.replace_substring_regex(names, pattern="/?[^/]*$", replacement=""))


def by_pattern(names: pa.Array | pa.ChunkedArray, pattern: str) -> Groups:
    """By what a regular expression finds in the names: its first group, or all that it matches.

    Raises:
        UserError: no regular expression, or a name in which it finds nothing.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"pattern {pattern!r}: is no regular expression ({error})") from error
    found: list[str] = []
    for start in range(0, len(names), _BLOCK):
        for name in names.slice(start, _BLOCK).to_pylist():
            match = compiled.search(name)
            if match is None:
                raise UserError(f"pattern {pattern!r}: finds nothing in the name {name!r}")
            found.append(match[compiled.groups > 0] or "")
    return _encode(pa.array(found))


def by_cluster(features: np.ndarray, places: np.ndarray, count: int, seed: int = 0) -> Groups:
    """By k-means of features (R, D), whose rows ``places`` int64 (N,) are the images.

    Learnt from a sample, then told block by block, so that only a block is in memory.
    """
    from sklearn.cluster import MiniBatchKMeans

    count = min(count, len(places))
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.permutation(places)[: max(count, _LEARNT_FROM)])
    means = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=seed)
    means.fit(np.asarray(features[sample]))
    codes = np.empty(len(places), np.int64)
    order = np.argsort(places, kind="stable")  # rows of a file are read one after the other
    for start in range(0, len(places), _BLOCK):
        block = order[start : start + _BLOCK]
        codes[block] = means.predict(np.asarray(features[places[block]]))
    return Groups(codes, [f"cluster {number}" for number in range(count)])


def _encode(labels: pa.Array | pa.ChunkedArray) -> Groups:
    if isinstance(labels, pa.ChunkedArray):
        labels = labels.combine_chunks()
    encoded = labels.dictionary_encode()
    return Groups(encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist())
