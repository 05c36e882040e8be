"""From the cells of a map to one vector."""

import torch
from torch import Tensor, nn


def generalised_mean(cells: Tensor, power: float | Tensor = 3.0, eps: float = 1e-6) -> Tensor:
    """GeM pooling of (B, N, D) to (B, D), between mean and maximum (Radenović et al., 2018)."""
    return cells.clamp(min=eps).pow(power).mean(dim=1).pow(1 / power)


class GeneralisedMean(nn.Module):
    """GeM pooling of a map (B, C, h, w) to float32 (B, C), with an exponent that is learned."""

    def __init__(self, power: float = 3.0) -> None:
        super().__init__()
        self.power: nn.Parameter = nn.Parameter(torch.full((1,), power))

    def forward(self, x: Tensor) -> Tensor:
        return generalised_mean(x.float().flatten(2).mT, self.power)
