"""The cluster memory: one vector a cluster, which images are contrasted with (arXiv 2103.11568)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from transreid_ssl.models.gpu import has_triton


def cluster_loss(features: Tensor, labels: Tensor, memory: Tensor, temperature: float) -> Tensor:
    """InfoNCE of images against all clusters (Cluster Contrast, equation 3), 0-d float32.

    Args:
        features: (B, D), any float type; scaled to unit length here.
        labels: int64 (B,), rows of ``memory``.
        memory: float32 (C, D), unit vectors.
        temperature: of the softmax over clusters.
    """
    with torch.autocast(features.device.type, enabled=False):
        similarities = F.normalize(features.float(), dim=1) @ memory.T  # (B, C)
        return F.cross_entropy(similarities / temperature, labels)


@torch.no_grad()
def move_to_each(memory: Tensor, features: Tensor, labels: Tensor, momentum: float) -> None:
    """In place, image after image: its cluster's vector moves towards it (equation 4).

    Images of different clusters do not touch one another, so the first of every cluster move
    theirs at once, then the second ones: as many rounds as a batch holds images of a cluster. On a
    GPU a kernel counts them, and the host waits for nothing.
    """
    order = labels.argsort(stable=True)
    if memory.is_cuda and has_triton():
        from transreid_ssl.finetune.memory_kernels import follow_each  # Triton is not everywhere

        follow_each(memory, features, order, labels[order], momentum)
        return
    _, counts = labels[order].unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    for turn in range(int(counts.max())):
        rows = order[starts[counts > turn] + turn]
        _move(memory, features[rows], labels[rows], momentum)


@torch.no_grad()
def move_to_hardest(memory: Tensor, features: Tensor, labels: Tensor, momentum: float) -> None:
    """In place: each cluster's vector moves towards the image that is least similar to it.

    Of equally similar images the first one counts.
    """
    similarity = (features * memory[labels]).sum(dim=1)
    order = similarity.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by cluster, the least similar first
    clusters = labels[order]
    begins = torch.cat((torch.ones_like(clusters[:1]), clusters.diff())) != 0
    places = torch.arange(len(order), device=order.device)
    # All images of a cluster stand for its first, and write the same: how many clusters there are
    # is nothing that the host would have to wait for.
    firsts = torch.where(begins, places, 0).cummax(0).values
    _move(memory, features[order[firsts]], clusters, momentum)


def _move(memory: Tensor, features: Tensor, labels: Tensor, momentum: float) -> None:
    """Where ``labels`` are alike, so are ``features``."""
    moved = momentum * memory[labels] + (1 - momentum) * features
    memory[labels] = F.normalize(moved, dim=1)


class ClusterMemory(nn.Module):
    """The loss against cluster vectors that follow the images by momentum.

    ``memory(features, labels)`` gives the loss and notes the images; ``memory.update()`` after the
    optimiser's step moves the vectors. All micro-batches of a step, on all processes, are thus
    compared with the same vectors, and the update is that of one process with the whole batch.

    Args:
        features: (C, D), a vector for each cluster; scaled to unit length.
        temperature: of the softmax over clusters.
        momentum: what a vector keeps of itself in an update.
        hard: move to the least similar image of a cluster in a batch, instead of to each of them.
    """

    features: Tensor
    """float32 (C, D), unit vectors."""

    temperature: float
    momentum: float
    hard: bool

    def __init__(
        self, features: Tensor, temperature: float = 0.05, momentum: float = 0.2, hard: bool = False
    ) -> None:
        super().__init__()
        if features.ndim != 2 or not len(features):
            raise ValueError(
                f"features must be (clusters, dimensions), not {tuple(features.shape)}"
            )
        self.temperature, self.momentum, self.hard = temperature, momentum, hard
        self.register_buffer("features", F.normalize(features.detach().float(), dim=1))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of (B, D) features whose clusters are ``labels``, int64 (B,), 0-d."""
        if self.training:
            self._seen.append((F.normalize(features.detach().float(), dim=1), labels))
        return cluster_loss(features, labels, self.features, self.temperature)

    def forget(self) -> None:
        """Drop the images since the last update."""
        self._seen.clear()

    def update(self) -> None:
        """Move the vectors to the images since the last update, those of all processes."""
        if not self._seen:
            return
        batches = [(_gather(features), _gather(labels)) for features, labels in self._seen]
        self._seen.clear()
        features, labels = (torch.cat(parts) for parts in zip(*batches))
        move = move_to_hardest if self.hard else move_to_each
        move(self.features, features, labels, self.momentum)


def _gather(values: Tensor) -> Tensor:
    """The rows of all processes, in the order of the processes; each has as many."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)
