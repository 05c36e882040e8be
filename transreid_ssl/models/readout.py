"""Features read from stripes of a person, and whitened by what unlabelled crops have in common.

A class token says what its objective asked for, in directions of very different strength. The
patches say more, place by place: horizontal stripes of them are the parts of a person (PCB, Sun et
al., ECCV 2018, 1711.09349, section 3.1). Whitening makes all directions count alike, so that what
all crops share no longer hides what tells two people apart (Jégou and Chum, ECCV 2012, section 3).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.errors import UserError
from transreid_ssl.models.header_record import HeaderRecord


@dataclass(frozen=True)
class Readout(HeaderRecord):
    """What is made of a network's output; the record that travels in the header of its weights.

    Raises:
        UserError: values that no readout has.
    """

    kind: ClassVar[str] = "readout"
    remedy: ClassVar[str] = "whiten the weights"

    parts: int = 0
    """Horizontal stripes of the last map, from top to bottom, whose means of length 1 are joined;
    0: the network's own feature."""
    dim: int = 0
    """Values of the feature after whitening; 0: it is not whitened."""
    own: bool = False
    """Whether the network's own feature, of length 1, comes before the stripes."""
    shrinkage: float = 0.0
    """How far the covariance was drawn to that of noise (Ledoit and Wolf, 2004)."""
    images: str = ""
    """What the whitening was learnt on, in words."""

    def __post_init__(self) -> None:
        sizes = self.parts, self.dim
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in sizes)
        whole = whole and all(0 <= n <= _MOST for n in sizes)
        number = isinstance(self.shrinkage, int | float) and math.isfinite(self.shrinkage)
        kinds = number and isinstance(self.images, str) and isinstance(self.own, bool)
        if not (whole and kinds and (self.parts or self.dim)):
            raise self.refusal(vars(self))

    def __str__(self) -> str:
        read = f"{self.parts} stripes" if self.parts else "the feature"
        read = f"the feature and {read}" if self.parts and self.own else read
        return f"{read} whitened to {self.dim} values" if self.dim else read


_MOST = 65_536


class ReadoutHead(nn.Module):
    """The feature (B, D) and the map (B, C, h, w) of a network to what is read of them, (B, K).

    Args:
        readout: What is read.
        width: Values of what is read before it is whitened: P · C of stripes, D of the feature.
    """

    mean: Tensor
    """float32 (P · C,) or (D,): what is taken off before whitening."""
    matrix: Tensor
    """float32 (P · C, K) or (D, K): what is left is multiplied by it."""

    def __init__(self, readout: Readout, width: int) -> None:
        super().__init__()
        self.readout = readout
        if readout.dim:
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("matrix", torch.eye(width, readout.dim))

    def forward(self, feature: Tensor, maps: Tensor | None = None) -> Tensor:
        if self.readout.parts:
            stripes = F.normalize(mean_of_stripes(maps.float(), self.readout.parts), dim=1)
            stripes = F.normalize(stripes.flatten(1), dim=1)
            own = [F.normalize(feature.float(), dim=1)] if self.readout.own else []
            feature = torch.cat([*own, stripes], dim=1)
        feature = F.normalize(feature.float(), dim=1)
        if self.readout.dim:
            feature = (feature - self.mean.float()) @ self.matrix.float()
        return feature


def mean_of_stripes(maps: Tensor, parts: int) -> Tensor:
    """Maps (B, C, h, w) to the means (B, C, ``parts``) of horizontal stripes, from top to bottom.

    Stripes overlap by a row where their number does not divide h, as PyTorch's adaptive pooling
    has them; sums and products alone, which every exported format knows.

    Raises:
        UserError: more stripes than rows.
    """
    height = maps.shape[2]
    if parts > height:
        raise UserError(f"{parts} stripes of a map of {height} rows: give {height} at most")
    weights = torch.zeros(height, parts)
    for part in range(parts):
        first, last = part * height // parts, -(-(part + 1) * height // parts)
        weights[first:last, part] = 1 / (last - first)
    return maps.mean(dim=3) @ weights.to(maps)
