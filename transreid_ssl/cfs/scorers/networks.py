"""Scoring by the features that networks give images."""

from pathlib import Path

import accelerate
import numpy as np
from torch import Tensor

from transreid_ssl.cfs.likeness import Learnt, halves
from transreid_ssl.cfs.scorers.base import Input, Scorer
from transreid_ssl.data import Pool, SubsetPool
from transreid_ssl.data.doctor import choose
from transreid_ssl.errors import UserError
from transreid_ssl.models import Backbone, BackboneSpec, load_backbone
from transreid_ssl.retrieval import embed_images
from transreid_ssl.retrieval.embed import require_finite
from transreid_ssl.words import counted

LEARNING = 2
"""Raised when a method learns in another way: scorings before are not continued then."""
_FEWEST = 10
"""Images of the target, and of the pool, that anything can be learnt from."""


class NetworkScorer(Scorer):
    """Scores by the features that networks give images.

    Args:
        pool: what is scored.
        target: images of the target.
        accelerator: where networks go; all processes share the embedding of what is learnt from.
        sample: images of either to learn from at most.
        seed: which ones, and of the halves.
    """

    accelerator: accelerate.Accelerator
    target: Pool | None
    seed: int
    sample: Pool
    places: np.ndarray
    half: np.ndarray
    target_half: np.ndarray

    def __init__(
        self,
        pool: Pool,
        target: Pool | None,
        accelerator: accelerate.Accelerator,
        sample: int,
        seed: int,
    ) -> None:
        self.accelerator, self.seed = accelerator, seed
        self.sample, self.places = some(pool, sample, seed)
        self.target = None if target is None else some(target, sample, seed)[0]
        self.half = halves(len(pool), seed)
        self.target_half = halves(0 if target is None else len(self.target), seed + 1)

    def _load(self, path: str | Path) -> Backbone:
        # Camera embeddings and a norm behind the feature belong to the fine-tuning alone.
        network = load_backbone(path, num_cameras=0, feature_norm=False, readout=None)
        return network.requires_grad_(False).to(self.accelerator.device)

    def _features(self, network: Backbone, view: Tensor) -> Tensor:
        images = view.to(self.accelerator.device, non_blocking=True).permute(0, 3, 1, 2)
        if images.device.type == "cpu":  # where convolutions are faster from planes
            images = images.contiguous()
        with self.accelerator.autocast():
            return network(images).float()

    def _embed(
        self, network: Backbone, images: Pool, options: dict[str, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Unit features float32 (R, D), and the places of the R images that can be read."""
        found, places = embed_images(
            network, images, accelerator=self.accelerator, skip_corrupt=True,
            precision=self.accelerator.mixed_precision, **options,
        )  # fmt: skip
        if len(places) < _FEWEST:
            raise UserError(
                f"{images.source}: {counted(len(places), 'readable image')}, too few to "
                f"learn from: give {_FEWEST} or more"
            )
        require_finite(found.numpy(), images.names, places)
        return found.numpy(), places

    def _both(self, network: Backbone, options: dict[str, int]) -> Learnt:
        """What a ``Likeness`` is made from."""
        theirs, found = self._embed(network, self.target, options)
        target_half = self.target_half[found]
        ours, found = self._embed(network, self.sample, options)
        half = self.half[self.places[found]]
        for images, dealt in ((self.target, target_half), (self.sample, half)):
            if np.bincount(dealt, minlength=2).min() < _FEWEST // 2:
                raise UserError(
                    f"{images.source}: too few images can be read to learn from both halves of it"
                )
        return theirs, target_half, ours, half


def some(pool: Pool, count: int, seed: int) -> tuple[Pool, np.ndarray]:
    """At most ``count`` images of a pool, drawn at random, and their places in it."""
    places = choose(len(pool), count, seed)
    return (pool if len(places) == len(pool) else SubsetPool(pool, places)), places


def input_of(spec: BackboneSpec) -> Input:
    """How a network wants its images resized."""
    return spec.img_size, spec.interpolation
