"""Position embeddings of one patch grid, resampled for another."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

RESAMPLINGS = ("antialias", "dino", "bilinear")


def resample_positions(
    positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], mode: str = "antialias"
) -> Tensor:
    """Resample (1, 1 + old rows * old columns, D) to (1, 1 + new rows * new columns, D).

    The class token's embedding is kept if it is there; it comes first. Grids are (rows, columns).

    Args:
        mode: ``antialias``, bicubic with a low-pass filter, the default here; ``dino``, what the
            published weights were trained with on small crops: bicubic without one, by a scale
            factor 0.1 patches too large; ``bilinear``, what the published fine-tuning does once,
            on loading.

    Raises:
        ValueError: unknown mode, or an embedding that is not of ``old_grid``.
    """
    leading = positions.shape[1] - old_grid[0] * old_grid[1]
    if leading not in (0, 1):
        raise ValueError(f"{positions.shape[1] - 1} position embeddings are no grid of {old_grid}")
    if tuple(old_grid) == tuple(new_grid):
        return positions
    token, patches = positions[:, :leading], positions[:, leading:]
    # Interpolation wants float32, whatever precision the run is in.
    patches = patches.float().unflatten(1, tuple(old_grid)).permute(0, 3, 1, 2)  # (1, D, h, w)
    if mode == "antialias":
        patches = F.interpolate(patches, size=new_grid, mode="bicubic", antialias=True)
    elif mode == "bilinear":
        patches = F.interpolate(patches, size=new_grid, mode="bilinear")
    elif mode == "dino":
        factors = [(new + 0.1) / old for new, old in zip(new_grid, old_grid)]
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic")
    else:
        raise ValueError(f"position resampling {mode!r}: choose one of {', '.join(RESAMPLINGS)}")
    patches = patches.flatten(2).transpose(1, 2).to(token.dtype)  # (1, h * w, D)
    return torch.cat((token, patches), dim=1)


def is_square(places: int) -> bool:
    """Whether so many patches make a grid of as many rows as columns."""
    return round(places**0.5) ** 2 == places


def num_places(state: Mapping[str, Tensor]) -> int:
    """The patches that these weights have position embeddings for; 0 without any.

    The first embedding is of the class token, unless that has one under a name of its own.
    """
    if "pos_embed" not in state:
        return 0
    return state["pos_embed"].shape[1] - (0 if "cls_pos" in state else 1)
