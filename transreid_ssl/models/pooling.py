"""From the cells of a map to one vector."""

from torch import Tensor


def generalised_mean(cells: Tensor, power: float = 3.0, eps: float = 1e-6) -> Tensor:
    """GeM pooling of (B, N, D) to (B, D), between mean and maximum (Radenović et al., 2018)."""
    return cells.clamp(min=eps).pow(power).mean(dim=1).pow(1 / power)
