"""Labelled person images and the protocols they are trained and tested on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transreid_ssl.data.name_patterns import without_camera
from transreid_ssl.data.pool import ConcatPool, Pool, SubsetPool
from transreid_ssl.errors import UserError
from transreid_ssl.words import counted

PARTS = ("train", "query", "gallery")


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A pool whose images carry an identity and perhaps a camera.

    ``identities`` and ``cameras`` are int64 (N,); identity -1 is a distractor, a person of no
    query; ``cameras`` is None where the set knows none. ``called`` has what the set itself calls an
    identity or a camera, by its kind and number, where that is not the number: "0014", or a name.
    """

    pool: Pool
    identities: np.ndarray
    cameras: np.ndarray | None = None
    called: Mapping[tuple[str, int], str] = field(default_factory=dict)

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

    def identity_of(self, index: int) -> str | None:
        """What the set calls the person on an image; None for a distractor."""
        number = int(self.identities[index])
        return None if number < 0 else self.called.get(("identity", number), str(number))

    def camera_of(self, index: int) -> str | None:
        """What the set calls the camera of an image; None where it knows none."""
        if self.cameras is None:
            return None
        number = int(self.cameras[index])
        return self.called.get(("camera", number), str(number))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "LabelledImages":
        """The images at ``indices``, in that order, with their labels."""
        indices = np.asarray(indices, dtype=np.int64)
        cameras = None if self.cameras is None else self.cameras[indices]
        labels = self.identities[indices], cameras
        return LabelledImages(SubsetPool(self.pool, indices), *labels, self.called)


@dataclass(frozen=True, eq=False)
class ReIDProtocol:
    """A labelled set split for training and testing: queries are looked for in the gallery.

    ``split`` says in words how the split relates to the published one ("official split", "NOT the
    official split (…)", "generated"). ``notes`` say what was left out or is missing, and ``absent``
    by part which images are listed and not there. ``pattern`` is what their names were read with,
    where it was.
    """

    name: str
    train: LabelledImages
    query: LabelledImages
    gallery: LabelledImages
    split: str = ""
    notes: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    pattern: str | None = None

    def describe(self) -> str:
        """One line for people: the counts, whether this is the official split, what is missing."""
        parts = [
            f"{part} {counted(len(images), 'image')} / "
            f"{counted(images.num_identities, 'identity', 'identities')}"
            + (f" / {counted(images.num_cameras, 'camera')}" if images.num_cameras else "")
            for part, images in (
                ("train", self.train),
                ("query", self.query),
                ("gallery", self.gallery),
            )
        ]
        split = [self.split] if self.split else []
        absent = [f"{part}: {said}" for part, said in self.absent.items()]
        return "; ".join([f"{self.name}: {parts[0]}", *parts[1:], *split, *self.notes, *absent])


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
    if not len(protocol.train):
        raise UserError(
            f"this network has embeddings of {counted(num_cameras, 'camera')}: of which, only the "
            f"training images of {protocol.name} tell, and these are not there"
        )
    known = np.unique(protocol.train.cameras) if protocol.train.num_cameras else np.empty(0)
    if (
        images.cameras is None
        or len(known) != num_cameras
        or not np.isin(images.cameras, known).all()
    ):
        raise UserError(
            f"this network has embeddings of {counted(num_cameras, 'camera')}, but not of those of "
            f"{protocol.name}: evaluate it on the set that it was fine-tuned on"
        )
    return np.searchsorted(known, images.cameras)


def labels(
    protocol: ReIDProtocol, queries: Any = slice(None)
) -> tuple[tuple[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray | None]]:
    """(identities, cameras) of ``queries`` and of the gallery; cameras where both know them."""
    query, gallery = protocol.query, protocol.gallery
    if query.cameras is None or gallery.cameras is None:
        return (query.identities[queries], None), (gallery.identities, None)
    return (
        (query.identities[queries], query.cameras[queries]),
        (gallery.identities, gallery.cameras),
    )


def matchable(query: LabelledImages, gallery: LabelledImages) -> np.ndarray:
    """Which queries have an image of the same identity in another camera; bool (Q,).

    Without cameras any image of the identity will do. Identity -1 matches nothing.
    """
    known = query.identities >= 0
    if query.cameras is None or gallery.cameras is None:
        return known & np.isin(query.identities, gallery.identities)
    identities = np.unique(query.identities, return_inverse=True)
    shared = np.flatnonzero(np.isin(gallery.identities, identities[0]))
    cameras = np.unique(
        np.concatenate([query.cameras, gallery.cameras[shared]]), return_inverse=True
    )
    # (identity, camera) as one number each, of ranks, so that any labels will do
    who = np.searchsorted(identities[0], gallery.identities[shared])
    where = cameras[1][len(query) :]
    pairs = np.unique(who * len(cameras[0]) + where)
    seen_by = np.bincount(pairs // max(1, len(cameras[0])), minlength=len(identities[0]))
    own = identities[1] * len(cameras[0]) + cameras[1][: len(query)]
    return known & (seen_by[identities[1]] > np.isin(own, pairs))


def untestable(protocol: ReIDProtocol) -> str | None:
    """Why a network cannot be evaluated on a set and what to do, or None.

    At least one query must be findable, and every listed image must be there.
    """
    query, gallery = protocol.query, protocol.gallery
    for part in ("query", "gallery"):
        if not len(getattr(protocol, part)):
            return f"no labelled image for the {part}; {protocol.split}"
        if part in protocol.absent:
            return f"{part}: {protocol.absent[part]}; restore them or take them out of the list"
    if matchable(query, gallery).any():
        return None
    read, without = _reading(protocol)
    if query.cameras is None or gallery.cameras is None:
        return (
            "no query has a match in the gallery (the same identity); check the pattern that "
            f"identities are read with{read}"
        )
    cameras = np.unique(np.concatenate([query.cameras, gallery.cameras]))
    why = "all images are of one camera" if len(cameras) == 1 else "check how cameras are numbered"
    return (
        f"no query has a match in the gallery (the same identity in another camera): {why}{read}; "
        "to evaluate without cameras open it as the set folder with a pattern that has no group "
        f"(?P<camera>…){without}"
    )


def _reading(protocol: ReIDProtocol) -> tuple[str, str]:
    """What a pattern finds in a query's name, and the pattern without its camera, in words."""
    name = protocol.query.names[0]
    found = re.search(protocol.pattern, name) if protocol.pattern else None
    if found is None:
        return "", ""
    told = ", ".join(f"{group} {text!r}" for group, text in found.groupdict().items())
    without = without_camera(protocol.pattern)
    advice = f", such as '{without}'" if without else ""
    return f" ('{protocol.pattern}' finds {told} in {name!r})", advice


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
            moved = {"identity": first_identity, "camera": first_camera}
            called = {
                (kind, moved[kind] + number): f"{protocol.name}/{text}"
                for (kind, number), text in _all_called(images).items()
            }
            parts[part].append(LabelledImages(images.pool, identities, cameras, called))
        first_identity += 1 + max(int(s.identities.max(initial=-1)) for s in sets)
        known = [s.cameras for s in sets if s.cameras is not None]
        first_camera += 1 + max((int(c.max(initial=-1)) for c in known), default=-1)
    labels = [protocol.name for protocol in protocols]
    split = "; ".join(f"{p.name}: {p.split}" for p in protocols)
    notes = tuple(f"{p.name}: {note}" for p in protocols for note in p.notes)
    absent = {
        part: "; ".join(f"{p.name}: {p.absent[part]}" for p in protocols if part in p.absent)
        for part in PARTS
        if any(part in p.absent for p in protocols)
    }
    train, query, gallery = (_join(parts[part], labels) for part in PARTS)
    return ReIDProtocol("+".join(labels), train, query, gallery, split, notes, absent)


def _join(images: list[LabelledImages], labels: list[str]) -> LabelledImages:
    cameras = [part.cameras for part in images if part.cameras is not None]
    known = np.concatenate(cameras) if len(cameras) == len(images) else None
    identities = np.concatenate([part.identities for part in images])
    called = {key: text for part in images for key, text in part.called.items()}
    return LabelledImages(
        ConcatPool([part.pool for part in images], labels), identities, known, called
    )


def _all_called(images: LabelledImages) -> dict[tuple[str, int], str]:
    """What is called as it is numbered, too, as numbers are about to change."""
    known = {"identity": images.identities, "camera": images.cameras}
    numbers = {
        (kind, number): str(number)
        for kind, codes in known.items() if codes is not None
        for number in np.unique(codes[codes >= 0]).tolist()
    }  # fmt: skip
    return numbers | dict(images.called)


def as_called(kind: str, codes: np.ndarray, texts: Sequence[str]) -> dict[tuple[str, int], str]:
    """What ``texts`` (N,) call an "identity" or a "camera" of ``codes`` int64 (N,), where that is
    not the number; of several texts for one number the first."""
    found: dict[tuple[str, int], str] = {}
    for code, text in zip(codes.tolist(), texts):
        if code >= 0 and str(code) != text:
            found.setdefault((kind, code), text)
    return found
