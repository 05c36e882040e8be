"""Training on pseudo labels: cluster all images, contrast them with a memory of the clusters.

Cluster Contrast (Dai et al., arXiv 2103.11568) with the settings that TransReID-SSL (arXiv
2111.12084) adapts its transformers with, without labels (USL) or to another domain (UDA).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from transreid_ssl.data.erasing import RandomErasingConfig
from transreid_ssl.data.readers import DEFAULT_PATTERN
from transreid_ssl.data.views import ReIDAugmentConfig
from transreid_ssl.errors import UserError, check_ranges
from transreid_ssl.finetune.memory import ClusterMemory
from transreid_ssl.training import Objective, OptimizerSettings, feature_spread, linear


@dataclass(frozen=True)
class TargetSettings:
    """The images to train on without labels.

    Args:
        name: A labelled set, whose labels are only used to say how good the clusters are
            ("market1501", "msmt17", "folder", "demo", …), or "pool" for any unlabelled pool.
        root: Its folder, or what --data.pool of pre-training takes.
        pattern: Of the set "folder": where a path says the identity and the camera.
        images_per_cluster: How many images of each cluster a batch holds.
        cross_camera: Prefer images of other cameras when a cluster's are drawn; null: where cameras
            are known.
        statistics: What images are normalised with: "half" (mean and std 0.5), "imagenet", or
            "pretrained" for those of the initial weights.
        max_bad_fraction: Share of unreadable images above which the run stops.
    """

    name: str = "demo"
    root: str | None = None
    pattern: str = DEFAULT_PATTERN
    images_per_cluster: int = 8
    cross_camera: bool | None = None
    statistics: Literal["half", "imagenet", "pretrained"] = "half"
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        check_ranges(self, images_per_cluster=(1, None), max_bad_fraction=(0, 1))


@dataclass(frozen=True)
class ClusterSettings:
    """How pseudo labels are found, and the memory that images are contrasted with.

    Args:
        eps: Jaccard distance up to which images are neighbours; the larger, the fewer and larger
            the clusters (Market-1501 0.6, MSMT17 0.7).
        eps_end: Its value in the last epoch, reached in equal steps; null keeps ``eps``.
        min_samples: Neighbours, itself among them, that make an image the core of a cluster.
        min_samples_end: Its value in the last epoch; null keeps ``min_samples``.
        k1: Neighbourhood of the Jaccard distance; more than most people have images is too much.
        k2: Nearest images that encodings are averaged over.
        method: "dbscan", or "louvain" for communities of the graph of neighbours, of which those
            of fewer than ``min_samples`` images are outliers (pip install '.[communities]').
        outliers: "drop" leaves images without a cluster out of the epoch; "singletons" makes each a
            cluster of its own.
        max_clusters: Stop where more clusters are found: people are being split; null: any number.
        search: "exact" neighbours, or "approximate" ones with faiss (pip install '.[faiss]').
        steps_per_epoch: Optimiser steps between two clusterings.
        temperature: Of the softmax over clusters.
        momentum: What a cluster's vector keeps of itself when a batch has been seen.
        hard: Move it to the least similar image of a batch instead of to each of them.
        frozen_norms: Keep batch norms at their running statistics, for small batches; a neck that
            has just been added then does no more than scale each value.
        precision: In which all images are embedded to be clustered, "no" being float32. Of 3,000
            crops, clusters of bf16 agreed with those of float32 to an adjusted Rand index of 0.94
            to 0.98, those of fp16 to 0.985 to 0.994.
        embed_batch_size: Images at once when all are embedded.
    """

    eps: float = 0.6
    eps_end: float | None = None
    min_samples: int = 4
    min_samples_end: int | None = None
    k1: int = 30
    k2: int = 6
    method: Literal["dbscan", "louvain"] = "dbscan"
    outliers: Literal["drop", "singletons"] = "drop"
    max_clusters: int | None = None
    search: Literal["exact", "approximate"] = "exact"
    steps_per_epoch: int = 200
    temperature: float = 0.05
    momentum: float = 0.2
    hard: bool = True
    frozen_norms: bool = False
    precision: Literal["no", "bf16", "fp16"] = "no"
    embed_batch_size: int = 256

    def __post_init__(self) -> None:
        check_ranges(
            self, eps=(1e-6, 1), eps_end=(1e-6, 1), min_samples=(1, None),
            min_samples_end=(1, None), k1=(1, None), k2=(1, None), max_clusters=(2, None),
            steps_per_epoch=(1, None), temperature=(1e-6, None), momentum=(0, 1),
            embed_batch_size=(1, None),
        )  # fmt: skip
        if self.k2 > self.k1:
            raise UserError(f"--clusters.k2 {self.k2}: give at most --clusters.k1, {self.k1}")

    def density(self, epoch: int, epochs: int) -> tuple[float, int]:
        """``eps`` and ``min_samples`` of an epoch."""
        eps_end = self.eps if self.eps_end is None else self.eps_end
        least_end = self.min_samples if self.min_samples_end is None else self.min_samples_end
        last = max(1, epochs - 1)
        eps = linear(epoch, start=self.eps, end=eps_end, duration=last)
        least = linear(epoch, start=self.min_samples, end=least_end, duration=last)
        return eps, round(least)


CLUSTER_AUGMENT = ReIDAugmentConfig(
    interpolation="cubic",
    erasing=RandomErasingConfig(
        area=(0.02, 0.4), ratio_law="uniform", attempts=100, fill="normalised",
        colour=(0.485, 0.456, 0.406),
    ),
)  # fmt: skip
"""Cluster Contrast's: tall rectangles, filled with a constant after normalisation."""
CLUSTER_OPTIM = OptimizerSettings(
    name="sgd", lr=3.5e-4, lr_batch=None, schedule="step", by_epoch=True, warmup_epochs=0,
    step_epochs=20, min_lr=0.0, weight_decay=5e-4, weight_decay_end=None, decay_all=True,
    clip=0.0, clip_per_parameter=False,
)  # fmt: skip
"""TransReID-SSL's, for USL and the second stage of UDA."""


def watch_spread(backbone: nn.Module, note: Callable[[Tensor], None]) -> RemovableHandle:
    """Call ``note`` with the spread of each batch's features as they enter the neck.

    Behind it they are always spread: a batch norm scales up whatever is left of a collapsed
    network. Without a neck, those at the end are looked at.
    """
    neck = getattr(backbone, "bottleneck", None)
    if neck is None:
        return backbone.register_forward_hook(lambda _, given, out: note(feature_spread(out)))
    return neck.register_forward_pre_hook(lambda _, given: note(feature_spread(given[0])))


class ClusterObjective(Objective):
    """A backbone and the memory of the clusters of the epoch.

    The feature that is clustered, contrasted and evaluated is the backbone's own output, which
    ends in a batch norm (the BN neck), at unit length. The epoch's pseudo labels and memory are
    part of the state, so that a resumed epoch goes on with them.

    Args:
        backbone: With ``.spec``; maps uint8 (B, 3, H, W) to (B, D).
        config: Settings of the memory.
    """

    name = "usl"

    def __init__(self, backbone: nn.Module, config: ClusterSettings | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config or ClusterSettings()
        self.epoch = -1
        self.labels = np.empty(0, np.int64)
        # Not a registered module: its size changes, and no process has to send it to another one.
        self._memory: list[ClusterMemory] = []
        self._spread = torch.zeros(())
        self._watch: RemovableHandle | None = None

    def _note_spread(self, spread: Tensor) -> None:
        self._spread = spread

    @property
    def memory(self) -> ClusterMemory:
        """The memory of this epoch's clusters."""
        return self._memory[0]

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    def begin_epoch(self, epoch: int, labels: np.ndarray, centres: Tensor) -> None:
        """Train on these pseudo labels from here on.

        Args:
            epoch: 0-based.
            labels: int64 (N,), -1 for images left out.
            centres: float (C, D), the memory's first vectors.
        """
        config = self.config
        memory = ClusterMemory(centres, config.temperature, config.momentum, config.hard)
        self.epoch, self.labels = epoch, labels
        self._memory = [memory.to(self.device)]

    def forward(self, batch: dict[str, Any], epoch: int = 0) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            batch: "images" uint8 (B, 3, H, W), "identities" int64 (B,), which are clusters here,
                and, for a backbone that embeds cameras, "cameras" int64 (B,).
            epoch: Not used.

        Returns:
            0-d tensors: "loss" and "feature_spread" (before the neck).
        """
        if self._watch is None:  # only now: the loop has put other norms in the place of the first
            self._watch = watch_spread(self.backbone, self._note_spread)
        features = self.backbone(batch["images"], batch.get("cameras"))
        loss = self.memory(features, batch["identities"])
        return {"loss": loss, "feature_spread": self._spread}

    def forget(self) -> None:
        """Drop what the step has noted; the memory is no registered module."""
        super().forget()
        self.memory.forget()

    def after_step(self, progress: float) -> None:
        """Move the memory to the images of the step."""
        self.memory.update()

    def train(self, mode: bool = True) -> "ClusterObjective":
        super().train(mode)
        if self.config.frozen_norms:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """The epoch's pseudo labels and memory."""
        vectors = self.memory.features if self._memory else torch.empty(0)
        return {"epoch": self.epoch, "labels": torch.from_numpy(self.labels), "memory": vectors}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["epoch"] >= 0:
            self.begin_epoch(state["epoch"], state["labels"].numpy(), state["memory"])
            self.memory.features.copy_(state["memory"])  # scaled anew it would change the last bits
