"""The images to fine-tune on, the losses and the clusters, as settings."""

from dataclasses import dataclass
from typing import Literal

from transreid_ssl.data.settings import DEFAULT_PATTERN, RandomErasingConfig, ReIDAugmentConfig
from transreid_ssl.errors import UserError, check_ranges
from transreid_ssl.training.schedules import linear
from transreid_ssl.training.settings import OptimizerSettings


@dataclass(frozen=True)
class LabelledSettings:
    """The labelled images to train on.

    Args:
        name: "market1501", "msmt17", several joined by "+", "folder", or "demo" (generated).
        root: Their folder; for several sets the common parent, or their folders joined by a comma.
        pattern: Of the set "folder": where a path says the identity and the camera.
        images_per_identity: How many images of each person a batch holds; the triplet loss needs 2.
        few_images: How a person of fewer images than a batch takes is given: "repeat" takes each
            image about as often as the others, "draw" draws them with replacement, so that some may
            not come at all (the papers' programs).
        epoch: How many batches an epoch has: as many as "groups" of so many images of each person
            make, or as all "images" fill, as LUPerson counts (groups of 16 make 435 of MSMT17, its
            images fill 509). It decides how long a training is.
        spread_identities: Deal the images of each person out over a batch, so that a part of it,
            such as ``run.norm_images``, has images of everybody in it instead of whole persons.
        statistics: What images are normalised with: "half" (mean and std 0.5, as TransReID-SSL
            fine-tunes), "imagenet", "luperson_mgn" (as LUPerson fine-tunes), or "pretrained" for
            those of the initial weights.
        label_budget: Share of the labels to train on (LUPerson's small-scale and few-shot sizes);
            null: all. Budgets of one seed contain one another.
        label_budget_by: "identity" keeps people with all of their images, "image" as large a share
            of each person's images, one at least.
        label_list: A list of what to train on: an identity a line, or "name; pid; cam".
        label_repeat: How often an image is counted, 1 or more, which lengthens the epochs of a
            small budget (LUPerson's ``repeat_ratio`` of few-shot lists: 2 or 3).
    """

    name: str = "demo"
    root: str | None = None
    pattern: str = DEFAULT_PATTERN
    images_per_identity: int = 4
    few_images: Literal["repeat", "draw"] = "repeat"
    epoch: Literal["groups", "images"] = "groups"
    spread_identities: bool = False
    statistics: Literal["half", "imagenet", "luperson_mgn", "pretrained"] = "half"
    label_budget: float | None = None
    label_budget_by: Literal["identity", "image"] = "identity"
    label_list: str | None = None
    label_repeat: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(
            self, images_per_identity=(2, None), label_budget=(1e-9, 1), label_repeat=(1, None)
        )


@dataclass(frozen=True)
class SupervisedConfig:
    """The losses.

    Args:
        label_smoothing: Share of the target spread over all identities; TransReID-SSL uses none.
        margin: Triplet margin in Euclidean distance; null: the soft margin, without tuning.
        id_weight: Weight of the identity cross-entropy.
        triplet_weight: Weight of the triplet loss.
    """

    label_smoothing: float = 0.0
    margin: float | None = None
    id_weight: float = 1.0
    triplet_weight: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(
            self, label_smoothing=(0, 0.99), margin=(0, None), id_weight=(0, None),
            triplet_weight=(0, None),
        )  # fmt: skip


SUPERVISED_AUGMENT = ReIDAugmentConfig(interpolation="cubic")
"""TransReID-SSL's: bicubic resizing, and noise where an image is erased."""


SUPERVISED_OPTIM = OptimizerSettings(
    name="sgd", lr=4e-4, lr_batch=None, by_epoch=True, warmup_epochs=20, warmup_start=0.01,
    min_lr=0.0, end=0.002, weight_decay=1e-4, weight_decay_end=None, decay_all=True,
    bias_lr_scale=2.0, clip=0.0, clip_per_parameter=False,
)  # fmt: skip
"""TransReID-SSL's: a small rate, because the pre-trained features are to be kept."""


@dataclass(frozen=True)
class MGNConfig:
    """The losses of an MGN, and how long its pre-trained weights rest.

    Args:
        label_smoothing: Share of the target spread over identities.
        smoothing_over: What it is spread over: "all" identities, or the "others" (LUPerson's).
        margin: Triplet margin in Euclidean distance; null: the soft margin, without tuning.
        id_weight: Weight of the identity cross-entropy, the mean over eight classifiers.
        triplet_weight: Weight of the triplet loss, a mean over vectors.
        triplet_part: Triplets are looked for among all images that a process has at once, but
            their gradients stay within the anchor's part of so many images, as LUPerson's stay on
            the anchor's GPU (16 images); null: they reach all three images.
        circle_scale: Of an mgn_…_luperson, whose classifiers are trained with Circle loss: what
            their logits are multiplied by.
        circle_margin: Of the same: how far from 1 and from 0 the cosines to the own identity and
            to others may stay.
        freeze_epochs: Epochs in which pre-trained weights rest; give 0 to train from scratch.
        freeze_statistics: Whether the statistics of their batch norms rest too, and are what
            images are normalised with (LUPerson's); else they follow the images.
    """

    label_smoothing: float = 0.1
    smoothing_over: Literal["all", "others"] = "all"
    margin: float | None = None
    id_weight: float = 1.0
    triplet_weight: float = 1.0
    triplet_part: int | None = None
    circle_scale: float = 64.0
    circle_margin: float = 0.35
    freeze_epochs: int = 10
    freeze_statistics: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self, label_smoothing=(0, 0.99), margin=(0, None), id_weight=(0, None),
            triplet_weight=(0, None), triplet_part=(1, None), circle_scale=(1e-9, None),
            circle_margin=(0, 1), freeze_epochs=(0, None),
        )  # fmt: skip


MGN_OPTIM = OptimizerSettings(
    name="adam", lr=3.5e-4, lr_batch=None, schedule="plateau", warmup_epochs=10, warmup_start=0.01,
    plateau_epochs=30, min_lr=0.0, end=0.0022, weight_decay=5e-4, weight_decay_end=None,
    decay_all=True, clip=0.0, clip_per_parameter=False,
)  # fmt: skip
"""LUPerson's; Adam's weight decay is part of the gradient."""


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
        whole_passes: No batch holds a cluster twice, where there are enough of them: each pass over
            the clusters leaves out those that do not fill a batch, as Cluster Contrast's does;
            false goes on with the next pass within a batch.
        statistics: What images are normalised with: "half" (mean and std 0.5), "imagenet", or
            "pretrained" for those of the initial weights.
        max_bad_fraction: Share of unreadable images above which the run stops.
    """

    name: str = "demo"
    root: str | None = None
    pattern: str = DEFAULT_PATTERN
    images_per_cluster: int = 8
    cross_camera: bool | None = None
    whole_passes: bool = False
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
        parts: Cluster what is read from so many stripes of a person, whitened by the images of the
            epoch (as `python -m transreid_ssl.whiten` does), in place of the feature that is
            trained; 0: that feature. For networks that were pre-trained without labels.
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
    parts: int = 0
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
            embed_batch_size=(1, None), parts=(0, None),
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
