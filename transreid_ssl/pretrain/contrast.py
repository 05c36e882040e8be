"""The contrast between queries and keys: one loss, one queue, one way to gather keys."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.pretrain.moments import Moments


def info_nce(
    queries: Tensor,
    keys: Tensor,
    temperature: float,
    *,
    queue: Tensor | None = None,
    offset: int = 0,
    tracks: Tensor | None = None,
    key_tracks: Tensor | None = None,
    moments: Moments | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of finding each query's own key among all (van den Oord et al., 1807.03748).

    All vectors have length 1. The negatives are the queue's keys or, without a queue, the other
    keys of the batch; where tracks are known, those of the query's own are left out.

    Args:
        queries: (B, D).
        keys: With a queue (B, D): key i is query i's. Without one (N, D): query i's is
            ``offset + i``.
        temperature: Of the softmax; low is sharp.
        queue: (D, K), a key a column.
        tracks: Numbers from 0 of the queries' tracks, int64 (B,); None: not known.
        key_tracks: Those of the queue's keys (K,), -1 where not known, or without a queue of
            ``keys`` (N,).
        moments: Weighs keys of tracks that were seen beside the query's.

    Returns:
        0-d float32: the loss, and the share of queries whose own key ranks first.
    """
    # In float32 whatever the networks run in: autocast would round the similarities.
    with torch.autocast(queries.device.type, enabled=False):
        if queue is None:
            similarities = queries @ keys.T  # (B, N)
            own = torch.arange(offset, offset + len(queries), device=queries.device)
        else:
            positive = (queries * keys).sum(dim=1, keepdim=True)
            similarities = torch.cat([positive, queries @ queue], dim=1)  # (B, 1 + K)
            own = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
        if tracks is not None:
            same = tracks[:, None] == key_tracks  # (B, N or K)
            same = F.pad(
                same, (similarities.shape[1] - same.shape[1], 0)
            )  # the column of positives
            same.scatter_(1, own[:, None], False)
            similarities = similarities.masked_fill(same, -torch.inf)
        logits = similarities / temperature
        if moments is not None:
            weights = moments(tracks, key_tracks)
            logits = logits + F.pad(weights, (logits.shape[1] - weights.shape[1], 0))
        loss = F.cross_entropy(logits, own)
    accuracy = (similarities.argmax(dim=1) == own).float().mean()
    return loss, accuracy


@torch.no_grad()
def gather(keys: Tensor) -> Tensor:
    """(A, B, …) of every process -> (A·W·B, …) in the order of the global batch.

    A are the micro-batches of a step and W the processes: a sampler deals a global batch out to all
    processes for the first micro-batch, then for the second.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return keys.flatten(0, 1)
    parts = [torch.empty_like(keys) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, keys.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 2)


class KeyQueue(nn.Module):
    """The newest keys, shared by all processes: a ring that steps write to one after another.

    Keys of a step wait until ``enqueue``, so that all its micro-batches see the same queue, and
    enter in the order of the global batch: what the queue holds does not depend on how many
    processes or micro-batches shared a batch.

    Args:
        dim: D, size of a key.
        size: K, keys it holds; random ones at first.
    """

    keys: Tensor
    """(D, K), a key of length 1 a column."""
    pointer: Tensor
    """int64 (1,): the column that is written next."""
    tracks: Tensor
    """int64 (K,): the number of each key's track, -1 where it is not known."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))
        self.register_buffer("tracks", torch.full((size,), -1))
        self._waiting: list[Tensor] = []
        self._waiting_tracks: list[Tensor] = []

    def remember(self, keys: Tensor, tracks: Tensor | None = None) -> None:
        """Let the keys of a micro-batch, (B, D), wait for the end of the step, and their tracks,
        int64 (B,), if these are known."""
        self._waiting.append(keys.detach())
        if tracks is not None:
            self._waiting_tracks.append(tracks)

    def forget(self) -> None:
        """Drop the keys that wait."""
        self._waiting.clear()
        self._waiting_tracks.clear()

    @torch.no_grad()
    def enqueue(self) -> None:
        """Put what waits, of all processes, in the place of the oldest keys."""
        if not self._waiting:
            return
        keys = gather(torch.stack(self._waiting))
        size, number = self.keys.shape[1], len(keys)
        # On the device throughout: reading the pointer would make the host wait.
        places = torch.arange(max(0, number - size), number, device=keys.device)
        columns = (self.pointer + places) % size
        self.keys[:, columns] = keys[places].T.to(self.keys.dtype)
        if self._waiting_tracks:
            self.tracks[columns] = gather(torch.stack(self._waiting_tracks))[places]
        self.forget()
        self.pointer.add_(number).remainder_(size)
