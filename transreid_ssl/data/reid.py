"""Labelled person images and the protocols they are trained and tested on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transreid_ssl.data.pool import ConcatPool, Pool, SubsetPool
from transreid_ssl.errors import UserError

PARTS = ("train", "query", "gallery")


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A pool whose images carry an identity and perhaps a camera.

    ``identities`` and ``cameras`` are int64 (N,); identity -1 is a distractor, a person of no
    query; ``cameras`` is None where the set knows none.
    """

    pool: Pool
    identities: np.ndarray
    cameras: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "identities", np.asarray(self.identities, dtype=np.int64))
        if self.cameras is not None:
            object.__setattr__(self, "cameras", np.asarray(self.cameras, dtype=np.int64))
        for labels in (self.identities, self.cameras):
            if labels is not None and labels.shape != (len(self.pool),):
                raise ValueError(f"{len(self.pool)} images, but labels of shape {labels.shape}")

    def __len__(self) -> int:
        return len(self.identities)

    @property
    def names(self) -> Sequence[str]:
        """The names of the images in their pool."""
        return self.pool.names

    @property
    def num_identities(self) -> int:
        """How many different persons, distractors not counted."""
        return len(np.unique(self.identities[self.identities >= 0]))

    @property
    def num_cameras(self) -> int:
        """How many different cameras; 0 where none is known."""
        return 0 if self.cameras is None else len(np.unique(self.cameras))

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image."""
        return self.pool.read(index)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "LabelledImages":
        """The images at ``indices``, in that order, with their labels."""
        indices = np.asarray(indices, dtype=np.int64)
        cameras = None if self.cameras is None else self.cameras[indices]
        return LabelledImages(SubsetPool(self.pool, indices), self.identities[indices], cameras)


@dataclass(frozen=True, eq=False)
class ReIDProtocol:
    """A labelled set split for training and testing: queries are looked for in the gallery.

    ``split`` says in words how the split relates to the published one ("official split", "NOT the
    official split (…)", "generated").
    """

    name: str
    train: LabelledImages
    query: LabelledImages
    gallery: LabelledImages
    split: str = ""

    def describe(self) -> str:
        """One line for people: the counts, and whether this is the official split."""
        parts = [
            f"{part} {len(images):,} images / {images.num_identities:,} identities"
            + (f" / {images.num_cameras} cameras" if images.num_cameras else "")
            for part, images in (
                ("train", self.train),
                ("query", self.query),
                ("gallery", self.gallery),
            )
        ]
        return "; ".join(
            [f"{self.name}: {parts[0]}", *parts[1:]] + ([self.split] if self.split else [])
        )


def camera_rows(
    images: LabelledImages, protocol: ReIDProtocol, num_cameras: int
) -> np.ndarray | None:
    """Rows int64 (N,) of a network's camera embedding for ``images``; None where it has none.

    Rows are the cameras of the training images in ascending order.

    Raises:
        UserError: the network was trained for other cameras than those of ``protocol``.
    """
    if not num_cameras:
        return None
    known = np.unique(protocol.train.cameras) if protocol.train.num_cameras else np.empty(0)
    if (
        images.cameras is None
        or len(known) != num_cameras
        or not np.isin(images.cameras, known).all()
    ):
        raise UserError(
            f"this network has embeddings of {num_cameras} cameras, which are not those of "
            f"{protocol.name}: evaluate it on the set that it was fine-tuned on"
        )
    return np.searchsorted(known, images.cameras)


def labels(protocol: ReIDProtocol, queries: Any = slice(None)) -> tuple[tuple, tuple]:
    """(identities, cameras) of ``queries`` and of the gallery; cameras where both know them."""
    query, gallery = protocol.query, protocol.gallery
    if query.cameras is None or gallery.cameras is None:
        return (query.identities[queries], None), (gallery.identities, None)
    return (
        (query.identities[queries], query.cameras[queries]),
        (gallery.identities, gallery.cameras),
    )


def matchable(query: LabelledImages, gallery: LabelledImages) -> np.ndarray:
    """Which queries have an image of the same identity in another camera; bool (Q,)."""
    if query.cameras is None or gallery.cameras is None:
        return np.isin(query.identities, gallery.identities)
    num_cameras = 1 + max(int(query.cameras.max(initial=0)), int(gallery.cameras.max(initial=0)))
    pairs = np.unique(gallery.identities * num_cameras + gallery.cameras)
    identities, counts = np.unique(pairs // num_cameras, return_counts=True)
    position = np.searchsorted(identities, query.identities).clip(max=len(identities) - 1)
    cameras_seen_by = np.where(identities[position] == query.identities, counts[position], 0)
    own_camera = np.isin(query.identities * num_cameras + query.cameras, pairs)
    return cameras_seen_by > own_camera


def split_queries(images: LabelledImages) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the queries, the first image of each identity and camera, and of all others."""
    cameras = np.zeros(len(images)) if images.cameras is None else images.cameras
    pairs = np.stack([images.identities, cameras], 1)
    first = np.unique(pairs, axis=0, return_index=True)[1]
    query = np.sort(first[images.identities[first] >= 0])
    return query, np.setdiff1d(np.arange(len(images)), query)


def merge(protocols: list[ReIDProtocol]) -> ReIDProtocol:
    """Several protocols as one: identities and cameras of each are moved behind the previous."""
    parts: dict[str, list[LabelledImages]] = {part: [] for part in PARTS}
    first_identity = first_camera = 0
    for protocol in protocols:
        sets = [getattr(protocol, part) for part in PARTS]
        for part, images in zip(PARTS, sets):
            identities = np.where(images.identities < 0, -1, images.identities + first_identity)
            cameras = None if images.cameras is None else images.cameras + first_camera
            parts[part].append(LabelledImages(images.pool, identities, cameras))
        first_identity += 1 + max(int(s.identities.max(initial=-1)) for s in sets)
        known = [s.cameras for s in sets if s.cameras is not None]
        first_camera += 1 + max((int(c.max(initial=-1)) for c in known), default=-1)
    labels = [protocol.name for protocol in protocols]
    split = "; ".join(f"{p.name}: {p.split}" for p in protocols)
    return ReIDProtocol("+".join(labels), *(_join(parts[part], labels) for part in PARTS), split)


def _join(images: list[LabelledImages], labels: list[str]) -> LabelledImages:
    cameras = [part.cameras for part in images]
    known = None if any(c is None for c in cameras) else np.concatenate(cameras)
    identities = np.concatenate([part.identities for part in images])
    return LabelledImages(ConcatPool([part.pool for part in images], labels), identities, known)
