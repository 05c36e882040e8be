"""Projection and prediction heads of contrastive objectives: MLPs with or without batch norm."""

from torch import nn


def mlp_head(
    in_dim: int,
    hidden_dim: int,
    out_dim: int,
    num_layers: int = 2,
    *,
    norm: bool = False,
    last_norm: bool = False,
) -> nn.Sequential:
    """Linear layers with ReLU in between: (N, in_dim) -> (N, out_dim).

    Args:
        num_layers: Linear layers, at least 1.
        norm: A batch norm after each layer but the last; these layers then have no bias.
        last_norm: A batch norm without scale and shift after the last layer (SimCLR, MoCo v3).

    Raises:
        ValueError: fewer than one layer.
    """
    if num_layers < 1:
        raise ValueError("num_layers must be at least 1")
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers.append(nn.Linear(in_dim, hidden_dim, bias=not norm))
        layers += [nn.BatchNorm1d(hidden_dim)] if norm else []
        layers.append(nn.ReLU())
        in_dim = hidden_dim
    layers.append(nn.Linear(in_dim, out_dim, bias=not last_norm))
    layers += [nn.BatchNorm1d(out_dim, affine=False)] if last_norm else []
    return nn.Sequential(*layers)
