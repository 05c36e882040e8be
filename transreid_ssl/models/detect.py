"""Telling from the shapes of weights which network they are of."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.models import checkpoints
from transreid_ssl.models.checkpoints import Checkpoint
from transreid_ssl.models.spec import ARCHITECTURES, Architecture, BackboneSpec
from transreid_ssl.models.statistics import HALF, IMAGENET
from transreid_ssl.models.stem import patch_grid

# No two of these have the same number of patches at any of the strides tried.
_IMAGE_SIZES = ((256, 128), (384, 128), (384, 192), (224, 224), (384, 384), (128, 64), (64, 32))
_OVERLAPS = (14, 12)


def detect_architecture(state: Mapping[str, Tensor], path: Path) -> Architecture:
    """The sizes of the network that these weights are of, but for its number of heads (0)."""
    try:
        embed_dim = state["cls_token"].shape[-1]
        kernel = state["patch_embed.proj.weight"].shape[-1]
    except (KeyError, IndexError) as error:
        raise UserError(f"{path}: holds no patch embedding; it is damaged or incomplete") from error
    blocks = [re.match(r"blocks\.(\d+)\.", name) for name in state]
    depth = 1 + max((int(found[1]) for found in blocks if found), default=-1)
    stem = state.get("patch_embed.conv.0.weight")
    if stem is None:
        return Architecture(embed_dim, depth, 0, kernel)
    norm = "ibn" if "patch_embed.conv.1.IN.weight" in state else "bn"
    return Architecture(embed_dim, depth, 0, 2 * kernel, stem.shape[0], norm)


def detect_name(found: Architecture, path: Path) -> str:
    """The name of the network of these sizes.

    Raises:
        UserError: none of ours has them.
    """
    for name, sizes in ARCHITECTURES.items():
        if replace(sizes, num_heads=0) == replace(found, num_heads=0):
            return name
    raise UserError(
        f"{path}: of a network with {found}, which is none of {', '.join(ARCHITECTURES)}"
    )


def detect_size(num_patches: int, patch_size: int) -> tuple[tuple[int, int], int] | None:
    """The image size and the stride that give this many patches, if they are of the usual ones."""
    for stride in (patch_size, *(s for s in _OVERLAPS if s < patch_size)):
        for size in _IMAGE_SIZES:
            rows, columns = patch_grid(size, patch_size, stride)
            if min(rows, columns) > 0 and rows * columns == num_patches:
                return size, stride
    return None


def detect_spec(checkpoint: Checkpoint) -> BackboneSpec:
    """The spec of a checkpoint: from its header, or from its shapes and its format.

    The authors normalise pre-training with ImageNet's statistics and fine-tuning with 0.5.

    Raises:
        UserError: the weights are of no network or image size known here.
    """
    if checkpoint.spec is not None:
        return checkpoint.spec
    state, path = checkpoint.state, checkpoint.path
    sizes = detect_architecture(state, path)
    name = detect_name(sizes, path)
    num_patches = state["pos_embed"].shape[1] - 1 if "pos_embed" in state else 0
    found = detect_size(num_patches, sizes.patch_size)
    if found is None:
        raise UserError(
            f"{path}: {num_patches} position embeddings are of no usual image size; "
            "build the network for its size and use load_weights"
        )
    img_size, stride = found
    tuned = checkpoint.format in (checkpoints.FINETUNED, checkpoints.CLUSTER_CONTRAST)
    dino = checkpoint.format in (checkpoints.DINO_TRAINING, checkpoints.DINO_BACKBONE)
    cameras = state.get("sie_embed")
    return BackboneSpec(
        name=name,
        img_size=img_size,
        stride=stride,
        mean=(HALF if tuned else IMAGENET).mean,
        std=(HALF if tuned else IMAGENET).std,
        position_resampling="dino" if dino else "antialias",
        num_cameras=0 if cameras is None else cameras.shape[0],
        feature_norm=checkpoint.format == checkpoints.CLUSTER_CONTRAST,
        objective=_OBJECTIVES.get(checkpoint.format, ""),
        provenance={"file": path.name, "format": checkpoint.format},
    )


_OBJECTIVES = {
    checkpoints.DINO_TRAINING: "dino",
    checkpoints.DINO_BACKBONE: "dino",
    checkpoints.FINETUNED: "supervised",
    checkpoints.CLUSTER_CONTRAST: "cluster-contrast",
    checkpoints.IMAGENET_VIT: "imagenet",
}
