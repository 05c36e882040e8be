"""Labelled person images and the protocols they are trained and tested on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transreid_ssl.data.pool import Pool, SubsetPool


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
