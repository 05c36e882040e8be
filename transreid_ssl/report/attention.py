"""What a network looks at: the class token's attention over person crops."""

from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from torch import Tensor

from transreid_ssl.data import Pool, decode, resize
from transreid_ssl.files import atomic_path
from transreid_ssl.models import Backbone, class_attention

_TILE_HEIGHT = 192
LEGEND = 30
"""Height of the legend in pixels."""


def attention_maps(model: Backbone, images: Tensor) -> Tensor:
    """The class token's attention in the last block, averaged over heads.

    Args:
        model: In evaluation mode.
        images: uint8 (B, 3, H, W).

    Returns:
        float32 (B, rows, columns) over the patch grid, each map scaled to 0 … 1.
    """
    maps = class_attention(model, images).mean(dim=1)
    flat = maps.flatten(1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    scaled = (flat - low[:, None]) / (high - low).clamp_min(1e-12)[:, None]
    return scaled.unflatten(1, maps.shape[1:]).float()


def draw_attention(path: str | Path, model: Backbone, pool: Pool, indices: np.ndarray) -> Path:
    """Write a PNG: each crop beside its attention map laid over it, and a legend below.

    Args:
        path: Where the picture goes.
        model: In evaluation mode.
        pool: The crops.
        indices: Which of them, int64 (M,).

    Raises:
        UserError: the file cannot be written.
    """
    wanted = model.spec.img_size, model.spec.interpolation
    crops = [resize(decode(pool.read(int(i)), pool.names[int(i)]), *wanted) for i in indices]
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
    maps = attention_maps(model, images).numpy()
    tiles = [_pair(crop, heat) for crop, heat in zip(crops, maps)]
    columns = min(8, len(tiles))
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    picture = np.vstack([*rows, _legend(rows[0].shape[1])])
    picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return Path(path)


def overlay(crop: np.ndarray, heat: np.ndarray, tile_height: int) -> np.ndarray:
    """A crop uint8 (H, W, 3) under its heat map (rows, columns) of 0 … 1, at this height."""
    height, width = tile_height, round(tile_height * crop.shape[1] / crop.shape[0])
    crop = cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR)
    smooth = cv2.resize(heat, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colours = colormaps["inferno"](smooth)[..., :3] * 255
    return (0.45 * crop + 0.55 * colours).astype(np.uint8)


def _legend(width: int) -> np.ndarray:
    """The scale of the maps, uint8 (LEGEND, width, 3): each has its own least and most."""
    strip = np.full((LEGEND, width, 3), 255, np.uint8)
    colours = colormaps["inferno"](np.linspace(0, 1, 90))[:, :3] * 255
    strip[9:21, 52:142] = colours.astype(np.uint8)
    for text, left in (("least", 6), ("most attention of the map", 150)):
        font = cv2.FONT_HERSHEY_SIMPLEX, 0.42, (34, 34, 34), 1, cv2.LINE_AA
        cv2.putText(strip, text, (left, 20), *font)
    return strip


def _pair(crop: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A crop (H, W, 3) and the same under its heat map (rows, columns), side by side."""
    over = overlay(crop, heat, _TILE_HEIGHT)
    crop = cv2.resize(crop, over.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    pair = np.hstack([crop, over])
    return cv2.copyMakeBorder(pair, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(255, 255, 255))
