"""What a page shows of a network: found once, kept as JSON, drawn as often as anybody likes.

Values are plain: numbers, text, and small images as JPEG within an address ("data:image/jpeg;…").
"""

import warnings
from collections.abc import Iterator, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from transreid_ssl.data import LabelledImages, Pool, ReIDProtocol, decode, decoded, resize
from transreid_ssl.data.reid import labels
from transreid_ssl.errors import UserError
from transreid_ssl.models import ReIDViT
from transreid_ssl.report.attention import attention_maps, overlay
from transreid_ssl.report.page import data_uri
from transreid_ssl.retrieval import RetrievalMetrics, count_pairs, evaluate, ranked_gallery
from transreid_ssl.retrieval.verification import PairCounts

_QUERIES = 1000
_ROWS, _RANKS = 6, 10
_MAPPED, _MAPPED_IDENTITIES, _FEW = 400, 40, 50
_CROPS = 6  # under attention maps
_CLUSTERS, _OF_CLUSTER = 6, 10


class RankedRow(NamedTuple):
    """A query and what was found for it: rows of the gallery (K,), nearest first."""

    query: int
    precision: float
    places: list[int]
    distances: list[float]
    correct: list[bool]


def ranked_rows(
    query: Tensor, gallery: Tensor, protocol: ReIDProtocol, metrics: RetrievalMetrics, count: int
) -> Iterator[RankedRow]:
    """The first ten ranks of ``count`` queries, spread evenly from the best found to the worst.

    Args:
        query, gallery: features (Q, D) and (G, D) of the protocol's images.
        metrics: what ``evaluate`` found of them.
    """
    precision = metrics.average_precision
    order = np.argsort(-precision, kind="stable")[: metrics.num_valid_queries]
    chosen = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    of_query, of_gallery = labels(protocol, chosen)
    ranked = ranked_gallery(query[chosen], *of_query, gallery, *of_gallery, k=_RANKS)
    for index, distances, places, correct in zip(chosen.tolist(), *ranked):
        shown = distances.isfinite()
        parts = (part[shown].tolist() for part in (places, distances, correct))
        yield RankedRow(index, float(precision[index]), *parts)


def of_retrieval(
    query: Tensor,
    gallery: Tensor,
    protocol: ReIDProtocol,
    device: Any = None,
    *,
    metrics: RetrievalMetrics | None = None,
    pictures: bool = True,
) -> dict[str, Any]:
    """Metrics, curves, ranked galleries and a map of features (Q, D) and (G, D) of a protocol.

    Args:
        metrics: what ``evaluate`` has found of them already. Without, at most 1,000 queries are
            looked at, evenly spread; with them that is so of the ROC curve and the map alone.
        pictures: whether images may be shown.

    Raises:
        UserError: what ``evaluate`` raises, or an image that cannot be read.
    """
    few, few_query = _thin(protocol, query)
    of_query, of_gallery = labels(few)
    sides = few_query, *of_query, gallery, *of_gallery
    if metrics is None:
        metrics, protocol, query = evaluate(*sides, device=device), few, few_query
    rows = ranked_rows(query, gallery, protocol, metrics, _ROWS) if pictures else ()
    return {
        "figures": metrics.as_dict(),
        "cmc": metrics.cmc.tolist(),
        "roc": _roc_if_any(*sides, device=device),
        "gallery": [_gallery_row(row, protocol) for row in rows],
        "map": feature_map([few_query, gallery], [few.query, few.gallery]),
    }


def _thin(protocol: ReIDProtocol, query: Tensor) -> tuple[ReIDProtocol, Tensor]:
    """The protocol with so many queries that a page costs seconds, and their features."""
    if len(query) <= _QUERIES:
        return protocol, query
    kept = np.linspace(0, len(query) - 1, _QUERIES).astype(int)
    return replace(protocol, query=protocol.query.subset(kept)), query[kept]


def _roc_if_any(*sides: Any, device: Any) -> dict[str, Any] | None:
    """None where there are only pairs of one person, or none of them: that is no fault here."""
    try:
        return roc_of(count_pairs(*sides, device=device))
    except UserError:
        return None


def _gallery_row(row: RankedRow, protocol: ReIDProtocol) -> dict[str, Any]:
    found = [
        tile(protocol.gallery, place) | {"similarity": 1 - distance, "correct": correct}
        for place, distance, correct in zip(row.places, row.distances, row.correct)
    ]
    return {
        "label": f"average precision {100 * row.precision:.0f} %",
        "query": tile(protocol.query, row.query),
        "found": found,
    }


def tile(images: Pool | LabelledImages, index: int) -> dict[str, Any]:
    """An image small, with its name, and its identity, camera and track where they are known."""
    (image,) = decoded(images, [index])
    said: dict[str, Any] = {"image": data_uri(image), "name": str(images.names[int(index)])}
    if isinstance(images, LabelledImages):
        said["identity"] = images.identity_of(index)
        if images.cameras is not None:
            said["camera"] = images.camera_of(index)
    elif images.annotations is not None:
        whence = images.annotations.select(["camera", "track"]).slice(int(index), 1).to_pylist()[0]
        said |= {name: text for name, text in whence.items() if text}
    return said


def roc_of(counts: PairCounts) -> dict[str, Any]:
    """The rates of true and of false matches at 61 thresholds, and the area under all of them."""
    total_same, total_different = int(counts.same.sum()), int(counts.different.sum())
    true = np.concatenate([[0], np.cumsum(counts.same)]) / total_same
    false = np.concatenate([[0], np.cumsum(counts.different)]) / total_different
    area = float((np.diff(false) * (true[1:] + true[:-1]) / 2).sum())
    lowest = max(-5, np.log10(1 / total_different))
    rates = np.logspace(lowest, 0, 61)
    found = true[np.searchsorted(false, rates, side="right") - 1]
    return {"false": rates.tolist(), "true": found.tolist(), "area": area,
            "same": total_same, "different": total_different}  # fmt: skip


def feature_map(features: Sequence[Tensor], images: Sequence[LabelledImages]) -> dict[str, Any]:
    """Two coordinates for features (N, D) of some people, with their identities and cameras.

    By t-SNE (van der Maaten and Hinton, JMLR 2008), and where there are few images, among which
    neighbourhoods say little, by their two principal components.
    """
    identities = np.concatenate([part.identities for part in images])
    random = np.random.default_rng(0)
    known = np.unique(identities[identities >= 0])
    people = random.permutation(known)[:_MAPPED_IDENTITIES]
    places = random.permutation(np.flatnonzero(np.isin(identities, people)))[:_MAPPED]
    method, flat = _in_two_dimensions(_rows(features, places))
    cameras = all(part.cameras is not None for part in images)
    where = [(images[part], index) for part, index in _within(images, places)]
    return {
        "method": method, "x": flat[:, 0].tolist(), "y": flat[:, 1].tolist(),
        "identity": [part.identity_of(index) for part, index in where],
        "camera": [part.camera_of(index) for part, index in where] if cameras else None,
    }  # fmt: skip


def _rows(parts: Sequence[Tensor], places: np.ndarray) -> np.ndarray:
    """Rows float32 (M, D) of the parts as if they stood one below the other, which takes room."""
    found = [parts[part][index] for part, index in _within(parts, places)]
    return torch.stack(found).float().cpu().numpy() if found else np.empty((0, 2), np.float32)


def _within(parts: Sequence[Sized], places: np.ndarray) -> list[tuple[int, int]]:
    """The part, and the place in it, of each of the places (M,) in all parts together."""
    starts = np.cumsum([0, *(len(part) for part in parts)])
    of_part = np.searchsorted(starts, places, side="right") - 1
    return list(zip(of_part.tolist(), (places - starts[of_part]).tolist()))


def _in_two_dimensions(values: np.ndarray) -> tuple[str, np.ndarray]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(values) < 3:  # have no directions
        return "no map", np.zeros((len(values), 2))
    if len(values) < _FEW:
        wanted = min(2, *values.shape)
        flat = PCA(wanted, random_state=0).fit_transform(values)
        return "two principal components", np.pad(flat, ((0, 0), (0, 2 - wanted)))
    with warnings.catch_warnings():  # features that are all the same have no directions
        warnings.simplefilter("ignore", RuntimeWarning)
        flat = TSNE(perplexity=min(30, len(values) / 5), init="random", random_state=0,
                    metric="cosine").fit_transform(values)  # fmt: skip
    return "t-SNE", flat


def of_attention(weights: str | Path, images: Pool | LabelledImages) -> list[dict[str, Any]]:
    """Some crops, evenly spread, and where the class token looks on each; [] without such a token.

    Raises:
        UserError: weights or an image that cannot be read.
    """
    from transreid_ssl.models import load_backbone

    model = load_backbone(weights)
    if not isinstance(model, ReIDViT) or model.spec.num_cameras:
        return []
    places = np.unique(np.linspace(0, len(images) - 1, _CROPS).astype(int)).tolist()
    wanted = model.spec.img_size, model.spec.interpolation
    crops = [resize(decode(images.read(i), images.names[i]), *wanted) for i in places]
    batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
    maps = attention_maps(model, batch).numpy()
    return [
        tile(images, place) | {"over": data_uri(overlay(crop, heat, 128), None)}
        for place, crop, heat in zip(places, crops, maps)
    ]


class ClusterRow(NamedTuple):
    """Images of a cluster that are shown: their places (K,), and how like the first each is."""

    cluster: int
    places: np.ndarray
    similarities: Sequence[float] | None = None


def of_clusters(
    found: np.ndarray,
    images: Pool | LabelledImages | None,
    rows: Sequence[ClusterRow] | None = None,
) -> dict[str, Any]:
    """Sizes of clusters int64 (N,), -1 for none, and images of some; purity where it is known.

    The purity of a cluster is the largest share of its images that show one person.

    Args:
        images: what was clustered; None where only ``found`` is left of it: then none are shown.
        rows: what is shown, by default of a few clusters from the largest to the smallest.

    Raises:
        UserError: no cluster, or an image that cannot be read.
    """
    sizes = np.bincount(found[found >= 0])
    if not len(sizes):
        raise UserError("there is no cluster to show; choose a larger eps")
    most = None
    if isinstance(images, LabelledImages) and (images.identities >= 0).all():
        most = _of_one_person(found, images.identities)
    if images is None:
        rows = []
    return {
        "sizes": np.sort(sizes)[::-1].tolist(),
        "outliers": int((found < 0).sum()), "images": len(found),
        "purity": None if most is None else float(most.sum() / sizes.sum()),
        "rows": [
            {
                "cluster": row.cluster, "size": int(sizes[row.cluster]),
                "purity": None if most is None else float(most[row.cluster] / sizes[row.cluster]),
                **_whence(images, found == row.cluster),
                "tiles": list(_tiles(images, row)),
            }
            for row in (_spread_rows(found, sizes) if rows is None else rows)
        ],
    }  # fmt: skip


def _spread_rows(found: np.ndarray, sizes: np.ndarray) -> Iterator[ClusterRow]:
    """Some clusters, from the largest to the smallest, and of each some of its images."""
    order = np.argsort(-sizes, kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, _CLUSTERS).astype(int))]
    for number in shown.tolist():
        members = np.flatnonzero(found == number)
        few = np.unique(np.linspace(0, len(members) - 1, _OF_CLUSTER).astype(int))
        yield ClusterRow(number, members[few])


def _whence(images: Pool | LabelledImages, inside: np.ndarray) -> dict[str, int]:
    """Of how many cameras and tracks the images ``inside``, bool (N,), are, where that is known."""
    known: dict[str, np.ndarray | None] = {}
    if isinstance(images, LabelledImages):
        known["cameras"] = images.cameras
    elif images.tracks is not None:
        known["tracks"] = images.tracks.tracks
        if any(images.annotations["camera"].unique().to_pylist()):  # else their names are empty
            known = {"cameras": images.tracks.cameras} | known
    return {k: len(np.unique(codes[inside])) for k, codes in known.items() if codes is not None}


def _tiles(images: Pool | LabelledImages, row: ClusterRow) -> Iterator[dict[str, Any]]:
    for number, place in enumerate(row.places.tolist()):
        said = {} if row.similarities is None else {"similarity": float(row.similarities[number])}
        yield tile(images, place) | said


def _of_one_person(found: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """How many images of each cluster, int64 (C,), are of its most frequent person."""
    inside = found >= 0
    pairs = np.stack([found[inside], identities[inside]])
    (clusters, _), counts = np.unique(pairs, axis=1, return_counts=True)
    most = np.zeros(int(found.max()) + 1, np.int64)
    np.maximum.at(most, clusters, counts)
    return most
