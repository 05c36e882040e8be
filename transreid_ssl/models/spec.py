"""What a backbone is: the record that travels in the header of its weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from transreid_ssl.errors import UserError
from transreid_ssl.models.positions import RESAMPLINGS
from transreid_ssl.models.statistics import IMAGENET
from transreid_ssl.models.stem import patch_grid


@dataclass(frozen=True)
class Architecture:
    """The sizes behind a name; ``stem_hidden`` is 0 for plain patches, without a stem.

    ``stem_norm`` is "ibn" (half instance, half batch norm: the paper's ICS) or "bn".
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    stem_hidden: int = 0
    stem_norm: str = "ibn"

    def __str__(self) -> str:
        stem = "no stem"
        if self.stem_hidden:
            stem = f"an {self.stem_norm.upper()} stem of {self.stem_hidden} channels"
        return f"width {self.embed_dim}, depth {self.depth}, patch {self.patch_size}, {stem}"


_SIZES = {  # embed_dim, depth, num_heads, patch_size, channels of the stem
    "vit_nano_patch8": (128, 4, 4, 8, 32),
    "vit_nano_patch16": (128, 4, 4, 16, 32),
    "vit_tiny_patch16": (192, 12, 3, 16, 64),
    "vit_small_patch16": (384, 12, 6, 16, 64),
    "vit_base_patch16": (768, 12, 12, 16, 64),
}
ARCHITECTURES = {
    f"{size}_{kind}": Architecture(*sizes[:4], sizes[4] if norm else 0, norm or "ibn")
    for size, sizes in _SIZES.items()
    for kind, norm in (("reid", None), ("ics", "ibn"), ("conv", "bn"))
}


def architecture(name: str) -> Architecture:
    """The sizes of a network by its name; ``UserError`` for a name that is not known."""
    if name not in ARCHITECTURES:
        raise UserError(f"network {name!r} is not known: choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


@dataclass(frozen=True)
class BackboneSpec:
    """Everything needed to rebuild a backbone and to feed it, so that no user has to be asked.

    Raises:
        UserError: unknown name, or a size, a statistic or an option that cannot be.
    """

    name: str
    """One of ``ARCHITECTURES``, such as ``vit_small_patch16_ics``."""
    img_size: tuple[int, int] = (256, 128)
    """(height, width) in pixels."""
    stride: int = 0
    """Pixels between patches; 0 becomes the patch size, less makes them overlap."""
    mean: tuple[float, float, float] = IMAGENET.mean
    """Channel means of the training images, of values in 0…1."""
    std: tuple[float, float, float] = IMAGENET.std
    position_resampling: str = "antialias"
    """How position embeddings are resampled for images of another size."""
    num_cameras: int = 0
    """Rows of the camera embedding (SIE); 0 for none."""
    camera_weight: float = 1.5
    gem: bool = False
    """Whether the feature is the class token plus the generalised mean of the patch tokens."""
    feature_norm: bool = False
    """Whether the feature goes through a batch norm, as in cluster-contrast training."""
    objective: str = ""
    """What it was trained for: ``dino``, ``supervised``…"""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: data, run, source file; plain JSON values."""

    def __post_init__(self) -> None:
        network = architecture(self.name)
        for name in ("img_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "provenance", dict(self.provenance or {}))
        if not self.stride:
            object.__setattr__(self, "stride", network.patch_size)
        if self.position_resampling not in RESAMPLINGS:
            raise UserError(f"position_resampling must be one of {', '.join(RESAMPLINGS)}")
        if len(self.img_size) != 2 or min(self.grid) < 1:
            raise UserError(
                f"img_size {self.img_size}: must be (height, width), "
                f"each {network.patch_size} or more"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError("mean and std must each hold three numbers, and no std may be 0")
        if not 0 < self.stride <= network.patch_size or (network.stem_hidden and self.stride % 2):
            raise UserError(
                f"stride {self.stride}: must be from 1 to {network.patch_size}, "
                "and even with a convolution stem"
            )

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.name]

    @property
    def patch_size(self) -> int:
        return self.architecture.patch_size

    @property
    def embed_dim(self) -> int:
        """The number of values of a feature."""
        return self.architecture.embed_dim

    @property
    def grid(self) -> tuple[int, int]:
        """The patch grid as (rows, columns)."""
        return patch_grid(self.img_size, self.patch_size, self.stride)

    def to_json(self) -> str:
        """One JSON object; the derived values are written too, for people and other programs."""
        derived = {name: getattr(self, name) for name in _DERIVED}
        return json.dumps(asdict(self) | derived)

    @classmethod
    def from_json(cls, text: str) -> "BackboneSpec":
        """The inverse of ``to_json``.

        Raises:
            ValueError: not JSON, or fields that this version does not know.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(values) - known - set(_DERIVED))
        if unknown or "name" not in values:
            raise ValueError(f"unknown fields {', '.join(unknown)}" if unknown else "no name")
        return cls(**{key: value for key, value in values.items() if key in known})

    def __str__(self) -> str:
        height, width = self.img_size
        extras = [f"{self.num_cameras} camera embeddings"] if self.num_cameras else []
        extras += [name for name in ("gem", "feature_norm") if getattr(self, name)]
        extras += [self.objective] if self.objective else []
        text = f"{self.name} at {height}x{width} (patch grid {self.grid[0]}x{self.grid[1]})"
        return ", ".join([text, *extras])


_DERIVED = ("patch_size", "grid", "embed_dim")
