"""From the items of a data set to one batch of tensors."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch


def stack(images: Sequence[np.ndarray], shape: tuple[int, ...] | None = None) -> torch.Tensor:
    """Stack uint8 (H, W, 3) arrays to a contiguous uint8 tensor (B, 3, H, W).

    Planes, as convolutions on a CPU are faster from them, and a GPU's kernel reads either order in
    its one pass. ``cv2.split`` writes them in place, 5 times faster than transposing in NumPy.
    """
    height, width, channels = shape or images[0].shape
    batch = np.empty((len(images), channels, height, width), np.uint8)
    for image, planes in zip(images, batch):
        if image.shape != (height, width, channels) or image.dtype != np.uint8:
            raise ValueError(
                f"cannot stack {image.shape} {image.dtype} with {batch.shape[1:]} uint8"
            )
        cv2.split(image, list(planes))
    return torch.from_numpy(batch)


def collate_views(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of ``ViewsDataset`` items.

    ``views`` is a list of uint8 tensors, one a group: (V * B, 3, H, W), view v of image b at row
    v * B + b. ``index`` is int64 (B,), ``corrupt`` the names of the broken images met. Items with
    geometry add ``boxes`` float32 (V, B, 4), ``flips`` bool (V, B) and ``original`` uint8
    (B, 3, H, W); V counts the global views. Items of a data set with mates add ``tracks``, int64
    (B,).
    """
    groups = range(len(items[0]["views"]))
    views = [
        stack([crop for view in zip(*(item["views"][group] for item in items)) for crop in view])
        for group in groups
    ]
    batch = {
        "views": views,
        "index": torch.tensor([item["index"] for item in items], dtype=torch.int64),
        "corrupt": [name for item in items for name in item["corrupt"]],
    }
    if "track" in items[0]:
        batch["tracks"] = torch.tensor([item["track"] for item in items], dtype=torch.int64)
    if "boxes" in items[0]:
        for name in ("boxes", "flips"):
            batch[name] = torch.from_numpy(np.stack([item[name] for item in items], axis=1))
        batch["original"] = stack([item["original"] for item in items])
    return batch


def collate_labelled(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of ``LabelledDataset`` items: ``images`` uint8 (B, 3, H, W), ``identities``,
    ``cameras`` and ``index`` int64 (B,), ``corrupt`` names."""
    columns = {"identities": "identity", "cameras": "camera", "index": "index"}
    return {
        "images": stack([item["image"] for item in items]),
        **{
            name: torch.tensor([item[key] for item in items], dtype=torch.int64)
            for name, key in columns.items()
        },
        "corrupt": [name for item in items for name in item["corrupt"]],
    }
