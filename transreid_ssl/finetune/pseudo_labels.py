"""Pseudo labels of an epoch: embed all images, cluster them, say how good the clusters are."""

from typing import NamedTuple

import accelerate
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from transreid_ssl.data import LabelledImages
from transreid_ssl.errors import UserError
from transreid_ssl.finetune.clusters import watch_spread
from transreid_ssl.finetune.settings import ClusterSettings
from transreid_ssl.models import Backbone, Striped
from transreid_ssl.processes import on_main
from transreid_ssl.retrieval import cluster, embed_images, jaccard_graph, whiten
from transreid_ssl.training import feature_spread
from transreid_ssl.words import counted, part_of

COLLAPSED = 0.005
ELSEWHERE = (  # a run keeps its settings
    "with another --run.output, which may begin with a checkpoint of this run as --model.weights"
)


class PseudoLabels(NamedTuple):
    """What one clustering found."""

    labels: np.ndarray
    """int64 (N,), 0 … C - 1; -1 for outliers and for images that could not be read."""
    centres: Tensor
    """float32 (C, D): the mean of each cluster's unit features."""
    figures: dict[str, float]
    """What is logged; see ``figures``."""

    def describe(self) -> str:
        """One line for people."""
        said = counted(round(self.figures["clusters/found"]), "cluster")
        if "clusters/true_identities" in self.figures:
            people = round(self.figures["clusters/true_identities"])
            said += f" ({counted(people, 'person', 'people')})"
        none = counted(round(self.figures["clusters/outliers"]), "outlier")
        said += f", {none} of {len(self.labels):,}"
        if "clusters/adjusted_rand_index" in self.figures:
            said += f", adjusted Rand index {self.figures['clusters/adjusted_rand_index']:.3f}"
            said += f", V-measure {self.figures['clusters/v_measure']:.3f}"
        if "clusters/unreadable" in self.figures:
            bad = counted(round(self.figures["clusters/unreadable"]), "image")
            said += f"; {bad} could not be read"
        return said


class Labeller:
    """Finds the pseudo labels of an epoch, the same on every process.

    All processes embed; the main process clusters.

    Args:
        images: All training images; true identities, where known, are only compared with.
        config: How to cluster.
        accelerator: The processes.
        num_workers: Processes that read images, for each process.
        cameras: int64 (N,), rows of the backbone's camera embedding, where it has one.
        max_bad_fraction: Share of unreadable images that is put up with.
    """

    images: LabelledImages
    config: ClusterSettings
    accelerator: accelerate.Accelerator
    num_workers: int
    cameras: np.ndarray | None

    def __init__(
        self,
        images: LabelledImages,
        config: ClusterSettings,
        accelerator: accelerate.Accelerator,
        num_workers: int = 0,
        cameras: np.ndarray | None = None,
        max_bad_fraction: float = 1.0,
    ) -> None:
        self.images, self.config, self.accelerator = images, config, accelerator
        self.num_workers, self.cameras = num_workers, cameras
        self.max_bad_fraction = max_bad_fraction

    def __call__(self, backbone: Backbone, epoch: int, epochs: int) -> PseudoLabels:
        """Embed and cluster with the density of this epoch.

        Raises:
            UserError: on every process: too many unreadable images, collapsed features, no cluster
                or one, or too many.
        """
        spreads: list[Tensor] = []
        watch = watch_spread(backbone, spreads.append)
        try:
            features, clustered, index = self._embed(backbone)
        finally:
            watch.remove()
        self._check_readable(len(index))
        if not spreads:  # without a neck, read by stripes, no pass of the network itself was seen
            spreads.append(feature_spread(features))
        labels = np.full(len(self.images), -1)
        density = self.config.density(epoch, epochs)
        labels[index] = on_main(
            self.accelerator, lambda: self._cluster(clustered, spreads, *density)
        )
        found = figures(labels[index], self.images.identities[index])
        if len(index) < len(labels):
            found["clusters/unreadable"] = float(len(labels) - len(index))
        if self.config.outliers == "singletons":
            alone = index[labels[index] < 0]
            labels[alone] = labels.max() + 1 + np.arange(len(alone))
        return PseudoLabels(labels, _centres(features, labels[index]), found)

    def _embed(self, backbone: Backbone) -> tuple[Tensor, Tensor, np.ndarray]:
        """Unit features of what is trained and of what is clustered, and the images' places."""
        parts = self.config.parts
        features, index = embed_images(
            Striped(backbone, parts) if parts else backbone, self.images, cameras=self.cameras,
            batch_size=self.config.embed_batch_size, num_workers=self.num_workers,
            precision=self.config.precision, skip_corrupt=True, accelerator=self.accelerator,
        )  # fmt: skip
        if not parts:
            return features, features, index
        own, stripes = features.tensor_split([backbone.spec.own_dim], dim=1)
        return F.normalize(own, dim=1), F.normalize(stripes, dim=1), index

    def _check_readable(self, readable: int) -> None:
        bad = len(self.images) - readable
        if bad > self.max_bad_fraction * len(self.images):
            raise UserError(
                f"{part_of(bad, len(self.images), 'image')} could not be read, more than "
                f"--data.max_bad_fraction {self.max_bad_fraction:g} allows: look at them with "
                "`python -m transreid_ssl.data verify PATH`"
            )

    def _cluster(
        self, features: Tensor, spreads: list[Tensor], eps: float, min_samples: int
    ) -> np.ndarray:
        config = self.config
        if config.k1 > len(features):
            raise UserError(
                f"--clusters.k1 {config.k1} is more than the "
                f"{counted(len(features), 'image')} that could be read"
            )
        spread = float(torch.stack(spreads).mean())
        if not spread >= COLLAPSED:  # or not a number
            raise UserError(
                f"the features of all {len(features):,} images point the same way (spread "
                f"{spread:.4f}): they have collapsed and cannot be clustered; lower --optim.lr or "
                "give other --model.weights, with another --run.output"
            )
        if config.parts:
            features = torch.from_numpy(whiten(features.numpy()))
        labels = cluster(
            features, eps, min_samples, config.k1, config.k2,
            method=config.method, search=config.search, device=self.accelerator.device,
        )  # fmt: skip
        count = labels.max() + 1
        if count < 2:
            raise UserError(_too_few(features, labels, eps, min_samples, config))
        if config.max_clusters is not None and count > config.max_clusters:
            raise UserError(
                f"{count:,} clusters were found, more than --clusters.max_clusters "
                f"{config.max_clusters:,}: raise --clusters.eps (now {eps:g}) so that a person's "
                f"images come together, or raise the limit, {ELSEWHERE}"
            )
        return labels


def _centres(features: Tensor, labels: np.ndarray) -> Tensor:
    """The mean feature of each cluster, float32 (C, D)."""
    kept = torch.from_numpy(labels >= 0)
    rows = torch.from_numpy(labels)[kept]
    sums = torch.zeros(int(labels.max()) + 1, features.shape[1])
    sums.index_add_(0, rows, features[kept])
    return sums / rows.bincount()[:, None]


def figures(labels: np.ndarray, identities: np.ndarray) -> dict[str, float]:
    """What a clustering looks like, and how well it agrees with true identities where known.

    Outliers count as clusters of one image in the agreement, so that leaving hard images out does
    not look better than it is; distractors (identity -1) are not looked at.
    """
    sizes = np.bincount(labels[labels >= 0])
    found = {
        "clusters/found": float(len(sizes)),
        "clusters/outliers": float((labels < 0).sum()),
        "clusters/mean_size": float(sizes.mean()) if len(sizes) else 0.0,
        "clusters/largest_size": float(sizes.max(initial=0)),
    }
    known = identities >= 0
    if not known.any():
        return found
    from sklearn.metrics import (  # a second, for those who cluster
        adjusted_rand_score,
        v_measure_score,
    )

    alone = labels < 0
    everyone = np.where(alone, labels.max() + np.cumsum(alone), labels)
    truth, everyone = identities[known], everyone[known]
    return found | {
        "clusters/true_identities": float(len(np.unique(truth))),
        "clusters/adjusted_rand_index": float(adjusted_rand_score(truth, everyone)),
        "clusters/v_measure": float(v_measure_score(truth, everyone)),
    }


def _too_few(
    features: Tensor, labels: np.ndarray, eps: float, min_samples: int, config: ClusterSettings
) -> str:
    """Why there is nothing to contrast, with the distances that ``eps`` has to do with."""
    every = -(-len(features) // 20_000)
    sample = features[::every]  # enough for quantiles
    graph = jaccard_graph(sample, config.k1, config.k2, 1.0)
    starts = graph.indptr
    nearest = np.ones(len(sample))
    for row in range(len(sample)):
        distances = np.sort(graph.data[starts[row] : starts[row + 1]])
        if len(distances) >= min_samples:
            nearest[row] = distances[min_samples - 1]
    low, middle, high = np.quantile(nearest, [0.1, 0.5, 0.9])
    many = "one cluster was" if labels.max() == 0 else "no cluster was"
    advice = "lower" if labels.max() == 0 and (labels == 0).mean() > 0.5 else "raise"
    other = "raise" if advice == "lower" else "lower"
    among = f" among every {every}th image" if every > 1 else ""
    return (
        f"{many} found among {counted(len(features), 'image')}, and training needs two, with "
        f"eps {eps:g} and min_samples {min_samples}: the {min_samples}th nearest image, itself "
        f"counted, is at distance {low:.2f} / {middle:.2f} / {high:.2f} (quantiles 10 / 50 / 90 "
        f"%{among}); {advice} --clusters.eps or {other} --clusters.min_samples, {ELSEWHERE}"
    )
