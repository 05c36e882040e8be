"""Telling from the shapes of weights which network they are of."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.models import checkpoints
from transreid_ssl.models.architectures import (
    ARCHITECTURES,
    Architecture,
    MGNArchitecture,
    ResNetArchitecture,
    ViTArchitecture,
)
from transreid_ssl.models.checkpoints import Checkpoint
from transreid_ssl.models.positions import num_places
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.statistics import HALF, IMAGENET, LUPERSON, LUPERSON_MGN
from transreid_ssl.models.stem import patch_grid

# No two of these have the same number of patches at any of the strides tried, but for 256x256 at 14
# (nothing published has it), which is taken for 224x224 at 12.
_IMAGE_SIZES = (
    (256, 128), (384, 128), (384, 192), (224, 224), (384, 384), (256, 256), (128, 64), (64, 32),
    (518, 518),
)  # fmt: skip
_OVERLAPS = (12, 14)


def detect_architecture(state: Mapping[str, Tensor], path: Path) -> Architecture:
    """The sizes of the network that these weights are of, but for a ViT's number of heads (0).

    Raises:
        UserError: weights that tell it are missing.
    """
    if "cls_token" in state or "conv1.weight" not in state:
        return _detect_vit(state, path)
    first = {name.removeprefix("branches.0."): value for name, value in state.items()}
    trunk = _detect_resnet(first, path)
    reduction = first.get("reductions.0.0.weight")
    if reduction is None:
        return trunk
    head = "luperson" if "pools.0.power" in first else "mgn"
    return MGNArchitecture(trunk, reduction.shape[0], head)


def _detect_vit(state: Mapping[str, Tensor], path: Path) -> ViTArchitecture:
    try:
        width = state["cls_token"].shape[-1]
        kernel = state["patch_embed.proj.weight"].shape[-1]
    except (KeyError, IndexError) as error:
        raise UserError(f"{path}: holds no patch embedding; it is damaged or incomplete") from error
    depth = _count(state, r"blocks\.(\d+)\.")
    stem = state.get("patch_embed.conv.0.weight")
    parts = sum(name.startswith("part_token") for name in state)
    scaled = "blocks.0.ls1.gamma" in state
    # Registers are part of DINOv2's architectures; of others they are an option, in the header.
    registers = state["reg_token"].shape[1] if scaled and "reg_token" in state else 0
    if stem is None:
        return ViTArchitecture(
            width, depth, 0, kernel, part_tokens=parts, registers=registers, scaled=scaled
        )
    norm = "ibn" if "patch_embed.conv.1.IN.weight" in state else "bn"
    return ViTArchitecture(width, depth, 0, 2 * kernel, stem.shape[0], norm, parts)


def _detect_resnet(state: Mapping[str, Tensor], path: Path) -> ResNetArchitecture:
    stages = range(1, 5)
    try:
        channels = tuple(state[f"layer{stage}.0.conv1.weight"].shape[0] for stage in stages)
    except (KeyError, IndexError) as error:
        raise UserError(f"{path}: lacks stages of a ResNet; it is damaged or another") from error
    depths = tuple(_count(state, rf"layer{stage}\.(\d+)\.") for stage in stages)
    bottleneck, ibn = "layer1.0.conv3.weight" in state, "layer1.0.bn1.IN.weight" in state
    return ResNetArchitecture(depths, channels, bottleneck, ibn)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number that the pattern finds in the names."""
    found = [re.match(pattern, name, re.ASCII) for name in state]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def detect_name(found: Architecture, path: Path) -> str:
    """The name of the network of these sizes; of a ViT with the usual number of heads.

    Raises:
        UserError: none of ours has them.
    """
    for name, sizes in ARCHITECTURES.items():
        if sizes == found:
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

    Statistics are the file's own where it has them, else those of its format's authors.
    TransReID-SSL pre-trains with ImageNet's and fine-tunes with 0.5, LUPerson uses its own. A plain
    ResNet is taken for LUPerson's unless it has a classifier. MoCo v3's ViT-S has 12 heads. Where
    the format leaves it open, ``notes`` of the checkpoint say what was taken for granted.

    Raises:
        UserError: the weights are of no network or image size known here.
    """
    if checkpoint.spec is not None:
        return checkpoint.spec
    path, format = checkpoint.path, checkpoint.format
    sizes = detect_architecture(checkpoint.state, path)
    name = detect_name(sizes, path)
    if format == checkpoints.MOCO_V3_TRAINING:
        name = {"vit_small_patch16_reid": "vit_small_patch16_heads12_reid"}.get(name, name)
    vit = isinstance(sizes, ViTArchitecture)
    objective = _OBJECTIVES.get(format, "")
    if vit and sizes.part_tokens and objective == "dino":
        objective = "pass"  # which trained these tokens in DINO's way, and has DINO's files
    mean, std = checkpoint.statistics or _STATISTICS.get(format, IMAGENET)
    options = _vit_options(checkpoint, sizes) if vit else _resnet_options(checkpoint, sizes)
    usual = "cubic" if format in _CUBIC else "linear"
    try:
        return BackboneSpec(
            name=name,
            mean=mean,
            std=std,
            interpolation=checkpoint.interpolation or usual,
            objective=objective,
            provenance={"file": path.name, "format": format, **checkpoint.published},
            **options,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}; it is damaged or of another network") from error


def assumption(checkpoint: Checkpoint) -> str | None:
    """What was taken for granted of the images that a network was trained with; None if nothing."""
    taken = _ASSUMED.get(checkpoint.format)
    if taken is None or checkpoint.statistics is not None:
        return None
    return (
        f"the file does not say how its images were normalised: {taken}; if that is wrong, give "
        "another --statistics to `python -m transreid_ssl.weights convert`"
    )


def _vit_options(checkpoint: Checkpoint, sizes: ViTArchitecture) -> dict[str, Any]:
    state = checkpoint.state
    num_patches = num_places(state)
    found = detect_size(num_patches, sizes.patch_size)
    if found is None:
        raise UserError(
            f"{checkpoint.path}: {num_patches} position embeddings are of no usual image size; "
            "build the network for its size and use load_weights"
        )
    dino = checkpoint.format in _DINOS and not getattr(sizes, "registers", 0)
    cameras = state.get("sie_embed")  # of TransReID with views, one for each view of each camera
    return {
        "img_size": found[0],
        "stride": found[1],
        "position_resampling": "dino" if dino else "antialias",
        "num_cameras": 0 if cameras is None else cameras.shape[0],
        "jpm": "b2.0.norm1.weight" in state,
        "feature_norm": checkpoint.format == checkpoints.CLUSTER_CONTRAST,
    }


def _resnet_options(checkpoint: Checkpoint, sizes: Architecture) -> dict[str, Any]:
    """A ResNet's weights tell neither size nor last stride: 256x128, and 16 once fine-tuned.

    LUPerson's MGN is for 384x128.
    """
    if checkpoint.format == checkpoints.FAST_REID_MGN:
        return {"img_size": (384, 128)}
    tuned = checkpoint.format in (checkpoints.FAST_REID, checkpoints.FINETUNED)
    return {"stride": 16} if tuned and isinstance(sizes, ResNetArchitecture) else {}


_DINOS = (
    checkpoints.DINO_TRAINING,
    checkpoints.DINO_BACKBONE,
    checkpoints.IBOT_TRAINING,
    checkpoints.PERSONVIT_TRAINING,
    checkpoints.DINOV2,
)
"""Formats of programs that resample positions of small crops as DINO's does; those of DINOv2's
networks with registers are resampled after a low-pass filter."""
_CUBIC = (checkpoints.CLUSTER_CONTRAST, checkpoints.FAST_REID, checkpoints.FAST_REID_MGN)
"""Formats of programs that resize what they embed by Pillow's bicubic filter."""
_ASSUMED = {
    checkpoints.PLAIN_RESNET: "with LUPerson's mean and std, as this layout is of LUPerson's files",
    checkpoints.MOCO_TRAINING: "with LUPerson's mean and std, though MoCo's own look alike",
    checkpoints.CLASSIFIER_RESNET: "with ImageNet's mean and std, as is usual in torchvision",
    checkpoints.IMAGENET_VIT: "with ImageNet's mean and std, though some of timm's ViTs took 0.5",
    checkpoints.PERSONVIT_TRAINING: "with 0.5 for mean and std, as those who use PersonViT's do",
}
_STATISTICS = {
    checkpoints.FINETUNED: HALF,
    checkpoints.CLUSTER_CONTRAST: HALF,
    checkpoints.PERSONVIT_TRAINING: HALF,
    checkpoints.MOCO_TRAINING: LUPERSON,
    checkpoints.FAST_REID: LUPERSON,
    checkpoints.FAST_REID_MGN: LUPERSON_MGN,
    checkpoints.PLAIN_RESNET: LUPERSON,
}
_OBJECTIVES = {
    checkpoints.DINO_TRAINING: "dino",
    checkpoints.DINO_BACKBONE: "dino",
    checkpoints.IBOT_TRAINING: "ibot",
    checkpoints.PERSONVIT_TRAINING: "ibot",
    checkpoints.DINOV2: "dinov2",
    checkpoints.FINETUNED: "supervised",
    checkpoints.CLUSTER_CONTRAST: "cluster-contrast",
    checkpoints.IMAGENET_VIT: "imagenet",
    checkpoints.MOCO_TRAINING: "moco",
    checkpoints.MOCO_V3_TRAINING: "mocov3",
    checkpoints.FAST_REID: "supervised",
    checkpoints.FAST_REID_MGN: "supervised",
    checkpoints.IMAGENET_RESNET: "imagenet",
}
