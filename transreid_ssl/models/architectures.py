"""The sizes behind the networks' names, and what each family of them can do.

Every family answers the same questions: how long a feature is (``embed_dim``), how many values a
cell of its map has (``map_dim``), how many pixels lie between two cells when nothing else is asked
for (``default_stride``), how large that map is (``grid``), and whether the settings of a spec can
be (``check``).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from transreid_ssl.errors import UserError
from transreid_ssl.models.stem import patch_grid
from transreid_ssl.models.timm_build import facts, is_timm, meant_of_timm, require_known
from transreid_ssl.words import nearest

LOCAL_BRANCHES = 4
"""Parts that TransReID's jigsaw patch module looks at beside the whole image."""


@dataclass(frozen=True)
class ViTArchitecture:
    """A vision transformer of tokens with ``width`` values.

    ``stem_hidden`` is 0 for plain patches, without a stem. ``stem_norm`` is "ibn" (half instance,
    half batch norm: the paper's ICS) or "bn". ``part_tokens`` stand beside the class token (PASS),
    and so do ``registers``; ``scaled`` blocks have a factor for each value they add (DINOv2).
    Weights do not tell the number of heads, so it does not count when two architectures are
    compared.
    """

    width: int
    depth: int
    num_heads: int = field(compare=False)
    patch_size: int
    stem_hidden: int = 0
    stem_norm: str = "ibn"
    part_tokens: int = 0
    registers: int = 0
    scaled: bool = False

    map_name = "patch grid"

    def __str__(self) -> str:
        stem = "no stem"
        if self.stem_hidden:
            stem = f"an {self.stem_norm.upper()} stem of {self.stem_hidden} channels"
        parts = f", {self.part_tokens} part tokens" if self.part_tokens else ""
        parts += f", {self.registers} registers" if self.registers else ""
        parts += ", scaled layers" if self.scaled else ""
        return f"width {self.width}, depth {self.depth}, patch {self.patch_size}, {stem}{parts}"

    @property
    def embed_dim(self) -> int:
        return 2 * self.width if self.part_tokens else self.width

    @property
    def map_dim(self) -> int:
        return self.width

    @property
    def default_stride(self) -> int:
        return self.patch_size

    def grid(self, img_size: tuple[int, int], stride: int) -> tuple[int, int]:
        return patch_grid(img_size, self.patch_size, stride)

    def check(self, spec: Any) -> None:
        if not 0 < spec.stride <= self.patch_size or (self.stem_hidden and spec.stride % 2):
            raise UserError(
                f"stride {spec.stride}: must be from 1 to {self.patch_size}, "
                "and even with a convolution stem"
            )
        if min(self.grid(spec.img_size, spec.stride)) < 1:
            raise UserError(
                f"img_size {spec.img_size}: must be (height, width), each {self.patch_size} or more"
            )
        rows, columns = self.grid(spec.img_size, spec.stride)
        if spec.jpm and rows * columns < LOCAL_BRANCHES:
            raise UserError(
                f"jpm: {rows * columns} patches are too few for {LOCAL_BRANCHES} branches; "
                "set it to false, or give a larger img_size"
            )
        if self.part_tokens:
            for name in ("gem", "jpm"):
                if getattr(spec, name):
                    raise UserError(
                        f"{name}: {spec.name} has tokens of its own for parts; set it to false"
                    )
        if self.scaled and spec.jpm:
            raise UserError(f"jpm: {spec.name} is not built with it; set it to false")
        if spec.registers and (self.part_tokens or spec.jpm or self.scaled):
            raise UserError(
                f"registers {spec.registers}: DINOv2's networks have their own number of them, and "
                "those with part tokens or jpm have none; give 0"
            )


@dataclass(frozen=True)
class ResNetArchitecture:
    """A ResNet (He et al., 2016), of bottlenecks or of basic blocks.

    ``depths`` and ``channels`` are those of its four stages; ``ibn`` puts instance norms into the
    first three (IBN-a, Pan et al., 2018).
    """

    depths: tuple[int, int, int, int]
    channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    bottleneck: bool = True
    ibn: bool = False

    default_stride = 32
    map_name = "feature map"
    patch_size = None

    def __str__(self) -> str:
        kind = "bottlenecks" if self.bottleneck else "basic blocks"
        norms = "instance and batch norms" if self.ibn else "batch norms"
        return f"{_dashed(self.depths)} {kind} of {_dashed(self.channels)} channels, {norms}"

    @property
    def embed_dim(self) -> int:
        return self.channels[-1] * (4 if self.bottleneck else 1)

    @property
    def map_dim(self) -> int:
        return self.embed_dim

    def grid(self, img_size: tuple[int, int], stride: int) -> tuple[int, int]:
        return _map_size(img_size, stride)

    def check(self, spec: Any) -> None:
        if spec.stride not in (16, 32):
            raise UserError(
                f"stride {spec.stride}: {spec.name} has a map at stride 32, or at 16 "
                "with a last stage that keeps its resolution"
            )
        _check_convolutional(spec)


@dataclass(frozen=True)
class MGNArchitecture:
    """A multiple granularity network: three branches of a ResNet, eight vectors of ``dim``.

    ``head`` tells how a branch ends: "mgn" is the MGN paper's, where the first branch keeps the
    ResNet's last stride, maxima are pooled and a vector ends in a ReLU; "luperson" is the one that
    LUPerson fine-tunes, where every last stage keeps its resolution, the exponent of each pooling
    is learned, and a vector ends in its batch norm.
    """

    trunk: ResNetArchitecture
    dim: int = 256
    head: Literal["mgn", "luperson"] = "mgn"

    default_stride = 16
    map_name = "part maps"
    patch_size = None

    def __str__(self) -> str:
        kind = {"mgn": "MGN", "luperson": "LUPerson's MGN"}[self.head]
        return f"{kind}, 8 vectors of {self.dim} values over {self.trunk}"

    @property
    def embed_dim(self) -> int:
        return 8 * self.dim

    @property
    def map_dim(self) -> int:
        return self.trunk.map_dim

    def grid(self, img_size: tuple[int, int], stride: int) -> tuple[int, int]:
        return _map_size(img_size, stride)

    def check(self, spec: Any) -> None:
        if spec.stride != 16:
            raise UserError(
                f"stride {spec.stride}: the branches of {spec.name} have fixed strides; "
                "leave it out"
            )
        for name in ("gem", "feature_norm"):
            if getattr(spec, name):
                raise UserError(
                    f"{name}: {spec.name} pools and normalises each of its vectors in its own way; "
                    "leave it out"
                )
        _check_convolutional(spec)


@dataclass(frozen=True)
class TimmArchitecture:
    """Any network of timm, by its name there behind ``timm:``, with timm's own pooling."""

    name: str

    map_name = "feature map"
    patch_size = None

    def __str__(self) -> str:
        return f"timm's {self.name.partition(':')[2]}"

    @property
    def embed_dim(self) -> int:
        return facts(self.name).embed_dim

    @property
    def map_dim(self) -> int:
        return facts(self.name).map_dim

    @property
    def default_stride(self) -> int:
        return 256 // facts(self.name, (256, 128)).grid[0]

    def grid(self, img_size: tuple[int, int], stride: int) -> tuple[int, int]:
        return facts(self.name, img_size).grid

    def check(self, spec: Any) -> None:
        if spec.stride != self.default_stride:
            raise UserError(f"stride {spec.stride}: that of {spec.name} is fixed; leave it out")
        if spec.gem:
            raise UserError(f"gem: {spec.name} pools in its own way; set it to false")
        _check_convolutional(spec)
        facts(self.name, spec.img_size)


Architecture = ViTArchitecture | ResNetArchitecture | MGNArchitecture | TimmArchitecture


def _check_convolutional(spec: Any) -> None:
    if min(spec.img_size) < 1:
        raise UserError(f"img_size {spec.img_size}: must be (height, width), each 1 or more")
    if spec.num_cameras:
        raise UserError(
            f"camera embeddings: {spec.name} has no tokens to add them to; "
            "leave them out, or choose a vit_…"
        )
    if spec.registers or spec.token_norm != "none":
        raise UserError(
            f"registers, token_norm: {spec.name} has no tokens; leave them out, or choose a vit_…"
        )
    if spec.jpm:
        raise UserError(
            f"jpm: {spec.name} has no tokens to shuffle; set it to false, or choose a vit_…"
        )


def _map_size(img_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Every halving of a ResNet rounds up."""
    return -(-img_size[0] // stride), -(-img_size[1] // stride)


def _dashed(numbers: tuple[int, ...]) -> str:
    return "-".join(map(str, numbers))


_VITS = {  # width, depth, num_heads, patch_size, channels of the stem
    "vit_nano_patch8": (128, 4, 4, 8, 32),
    "vit_nano_patch16": (128, 4, 4, 16, 32),
    "vit_tiny_patch16": (192, 12, 3, 16, 64),
    "vit_small_patch16": (384, 12, 6, 16, 64),
    "vit_base_patch16": (768, 12, 12, 16, 64),
    "vit_large_patch16": (1024, 24, 16, 16, 64),
}
_RESNETS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Two blocks in the third stage, because MGN branches after the first of them.
_NANO = ResNetArchitecture((1, 1, 2, 1), (16, 32, 64, 128), bottleneck=False)

ARCHITECTURES: dict[str, Architecture] = {
    f"{size}_{kind}": ViTArchitecture(*sizes[:4], sizes[4] if norm else 0, norm or "ibn")
    for size, sizes in _VITS.items()
    for kind, norm in (("reid", None), ("ics", "ibn"), ("conv", "bn"))
}
ARCHITECTURES |= {
    f"resnet{depth}_{kind}": ResNetArchitecture(depths, ibn=kind == "ibn_reid")
    for depth, depths in _RESNETS.items()
    for kind in ("reid", "ibn_reid")
}
ARCHITECTURES |= {
    f"{size}_pass": ViTArchitecture(*sizes[:4], part_tokens=3) for size, sizes in _VITS.items()
}
ARCHITECTURES |= {
    f"{size.replace('16', '14')}_{kind}_reid": ViTArchitecture(
        *sizes[:3], 14, registers=registers, scaled=True
    )
    for size, sizes in _VITS.items()
    if size not in ("vit_nano_patch8", "vit_tiny_patch16")
    for kind, registers in (("dinov2", 0), ("reg4_dinov2", 4))
}
# MoCo v3's ViT-S. Shapes do not tell it from the one with 6 heads: the name, or a header, does.
ARCHITECTURES["vit_small_patch16_heads12_reid"] = ViTArchitecture(384, 12, 12, 16)
ARCHITECTURES["resnet_nano_reid"] = _NANO
ARCHITECTURES["mgn_resnet50"] = MGNArchitecture(ResNetArchitecture(_RESNETS[50]))
ARCHITECTURES["mgn_resnet50_ibn"] = MGNArchitecture(ResNetArchitecture(_RESNETS[50], ibn=True))
ARCHITECTURES["mgn_resnet_nano"] = MGNArchitecture(_NANO, dim=32)
ARCHITECTURES |= {
    f"mgn_resnet{name}_luperson": MGNArchitecture(trunk, dim, head="luperson")
    for name, trunk, dim in (
        *((f"{depth}", ResNetArchitecture(depths), 256) for depth, depths in _RESNETS.items()),
        ("50_ibn", ResNetArchitecture(_RESNETS[50], ibn=True), 256),
        ("_nano", _NANO, 32),
    )
}


def architecture(name: str) -> Architecture:
    """The sizes of a network by its name; ``UserError`` for a name that is not known."""
    if is_timm(name):
        require_known(name)
        return TimmArchitecture(name)
    if name not in ARCHITECTURES:
        raise UserError(
            f"network {name!r} is not known: choose one that `python -m transreid_ssl pretrain "
            "dino --help-all` lists under --model.name, or any of timm's as timm:NAME"
            + (meant_of_timm(name) or nearest(name, ARCHITECTURES))
        )
    return ARCHITECTURES[name]
