"""Distances between many features, one block of queries at a time."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from transreid_ssl.errors import UserError

METRICS = ("cosine", "euclidean")
# Of one block of distances. Ranking on a GPU takes some eight times as much for keys and bins.
BLOCK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}


def as_features(values: Tensor | np.ndarray, name: str, device: torch.device | str) -> Tensor:
    """``values`` (N, D) of any float type as a float32 tensor on ``device``.

    Raises:
        ValueError: not a matrix.
        UserError: NaN or infinite values: no ranking of them means anything.
    """
    features = torch.as_tensor(values)
    if features.ndim != 2:
        raise ValueError(f"{name} features must be (N, D), not {tuple(features.shape)}")
    features = features.detach().to(device, torch.float32)
    if not torch.isfinite(features.sum()) and not torch.isfinite(features).all():
        raise UserError(
            f"the {name} features hold NaN or infinite values: the weights or the precision "
            'are at fault; embed with precision "no" or take an earlier checkpoint'
        )
    return features


def common_device(device: torch.device | str | None, *values: Tensor | np.ndarray) -> torch.device:
    """``device`` if given, else where the first tensor lies, else the CPU."""
    if device is not None:
        return torch.device(device)
    return next(
        (value.device for value in values if isinstance(value, Tensor)), torch.device("cpu")
    )


class DistanceBlocks:
    """Distances of all ``queries`` (Q, D) to all of ``gallery`` (G, D), never held at once.

    Iterating yields ``(start, block)``: ``block`` (B, G) float32 belongs to queries ``start`` to
    ``start + B``. It is the distance up to what is constant along a row, which leaves every ranking
    as it is and spares a pass: ``-cos`` for "cosine", ``|g|^2 - 2 q.g`` for "euclidean";
    :meth:`distances` completes it. The block's memory is used again for the next one. Equal
    distances come out equal as far as float32 products do: two galleries in another order, or
    another ``chunk``, may differ in the last bit of a distance.

    Args:
        chunk: queries in a block; by default as many as fit ``BLOCK_BYTES``, at least one.
    """

    device: torch.device
    queries: Tensor
    gallery: Tensor
    chunk: int

    def __init__(
        self,
        queries: Tensor | np.ndarray,
        gallery: Tensor | np.ndarray,
        *,
        metric: str = "cosine",
        chunk: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")
        self.metric = metric
        self.device = common_device(device, queries, gallery)
        self.queries = as_features(queries, "query", self.device)
        same = gallery is queries
        self.gallery = self.queries if same else as_features(gallery, "gallery", self.device)
        if self.queries.shape[1] != self.gallery.shape[1]:
            raise ValueError(
                f"query features have {self.queries.shape[1]} values each and gallery features "
                f"{self.gallery.shape[1]}: they come from different models"
            )
        if metric == "cosine":
            self.queries = F.normalize(self.queries, dim=1)
            self.gallery = self.queries if same else F.normalize(self.gallery, dim=1)
        memory = BLOCK_BYTES.get(self.device.type, BLOCK_BYTES["cpu"])
        fitting = memory // (4 * max(1, len(self.gallery)))
        self.chunk = max(1, min(chunk or fitting, len(self.queries)))

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        buffer = torch.empty(self.chunk, len(self.gallery), device=self.device)
        columns = self.gallery.T
        squares = self.gallery.square().sum(1) if self.metric == "euclidean" else None
        for start in range(0, len(self.queries), self.chunk):
            queries = self.queries[start : start + self.chunk]
            block = buffer[: len(queries)]
            if squares is None:
                torch.mm(-queries, columns, out=block)
            else:
                torch.addmm(squares, queries, columns, alpha=-2, out=block)
            yield start, block

    def at(self, start: int, rows: Tensor) -> Tensor:
        """What the blocks hold for some gallery ``rows`` (B, K) of the queries from ``start``."""
        queries, gallery = self.queries[start : start + len(rows), None], self.gallery[rows]
        products = (queries * gallery).sum(2)
        if self.metric == "cosine":
            return products.neg_()
        return gallery.square_().sum(2) - 2 * products

    def distances(self, start: int, values: Tensor) -> Tensor:
        """The true distances for ``values`` (B, K) taken from the block that began at ``start``."""
        if self.metric == "cosine":
            return (1 + values).clamp_(min=0)
        squares = self.queries[start : start + len(values)].square().sum(1, keepdim=True)
        return (values + squares).clamp_(min=0).sqrt_()


def ordered_keys(block: Tensor) -> Tensor:
    """int64 keys (B, G), all different in a row, in the order of a stable sort of ``block``.

    The high half is the float's bit pattern made monotonic, the low half the column: equal
    distances are thus ordered by column, on every device and by every kernel.
    """
    bits = (block + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0, its equal
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    columns = torch.arange(block.shape[1], device=block.device)
    return (bits.to(torch.int64) << 32) | columns
