"""KoLeo: features spread over the sphere (Sablayrolles et al., 1806.03198; DINOv2, section 4)."""

import torch
from torch import Tensor
from torch.nn import functional as F

_LEAST = 1e-8
"""Added to distances: two equal features have a finite loss."""


def koleo_loss(features: Tensor, tracks: Tensor | None = None) -> Tensor:
    """Minus the mean logarithm of the distance from each feature to the nearest other one.

    It is of one process alone, as published.

    Args:
        features: (B, D), of different images; they are brought to length 1 here.
        tracks: Int64 (B,): images of one track show one person, and do not count as neighbours.
            This is ours. None: all others count.

    Returns:
        0-d float32: the mean over the features that have a neighbour; 0 if none has.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=-1)
        with torch.no_grad():
            similarity = unit @ unit.T
            own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
            if tracks is not None:
                own = own | (tracks[:, None] == tracks)
            similarity.masked_fill_(own, -torch.inf)
            nearest = similarity.argmax(dim=1)
            counts = ~own.all(dim=1)
        # As DINOv2's program: the smallest number is added to the differences as well, where the
        # square root of 0 has no gradient.
        distances = F.pairwise_distance(unit, unit[nearest], eps=_LEAST)
        logs = torch.where(counts, (distances + _LEAST).log(), 0.0)
        return -logs.sum() / counts.sum().clamp(min=1)
