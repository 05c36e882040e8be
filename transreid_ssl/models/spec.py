"""What a backbone is: the record that travels in the header of its weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, Literal

from transreid_ssl.errors import UserError, check_ranges
from transreid_ssl.models.architectures import (
    LOCAL_BRANCHES,
    Architecture,
    MGNArchitecture,
    architecture,
)
from transreid_ssl.models.calibration import Calibration
from transreid_ssl.models.positions import RESAMPLINGS
from transreid_ssl.models.readout import Readout
from transreid_ssl.models.statistics import IMAGENET

Interpolation = Literal["linear", "cubic"]


@dataclass(frozen=True)
class BackboneSpec:
    """Everything needed to rebuild a backbone and to feed it, so that no user has to be asked.

    Raises:
        UserError: unknown name, or a size, a statistic or an option that cannot be.
    """

    name: str
    """One of ``ARCHITECTURES``, such as ``vit_small_patch16_ics``, or one of timm's names behind
    ``timm:``, such as ``timm:repvit_m1_0``."""
    img_size: tuple[int, int] = (256, 128)
    """(height, width) in pixels."""
    stride: int = 0
    """Pixels between cells of the map; 0 becomes the network's own.

    A ViT's own is its patch size, and less makes patches overlap. A ResNet's own is 32; at 16 its
    last stage keeps its resolution.
    """
    mean: tuple[float, float, float] = IMAGENET.mean
    """Channel means of the training images, of values in 0…1."""
    std: tuple[float, float, float] = IMAGENET.std
    position_resampling: str = "antialias"
    """How a ViT's position embeddings are resampled for images of another size."""
    interpolation: Interpolation = "linear"
    """How images are resized before they are embedded: "linear" or "cubic"."""
    num_cameras: int = 0
    """Cameras that a ViT has embeddings for (SIE, TransReID, section 3.2); 0 for none."""
    num_views: int = 1
    """Viewpoints that each of them has an embedding for.

    The data sets here know no views, so that every image is of view 0 unless a caller says more. A
    network that embeds views alone has one camera.
    """
    camera_weight: float = 3.0
    """What the embedding is multiplied by before it is added to every token (TransReID: 3)."""
    gem: bool = False
    """Whether the generalised mean is added to a ViT's class token, or replaces a ResNet's mean."""
    jpm: bool = False
    """Whether a ViT has TransReID's jigsaw patch module, with a feature five times as long."""
    jpm_shift: int = 5
    """Tokens that it moves to the end before it shuffles them; for vehicles it was 8."""
    registers: int = 0
    """Tokens beside a ViT's class token that stand for nothing (arXiv 2309.16588)."""
    token_norm: str = "none"
    """Whether a ViT's patch tokens are normalised over their image: "instance" or "none"."""
    feature_norm: bool = False
    """Whether the feature goes through a batch norm, as in cluster-contrast training."""
    objective: str = ""
    """What it was trained for: ``dino``, ``supervised``…"""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: data, run, source file; plain JSON values."""
    readout: Readout | None = None
    """What features are read from and how they are whitened; None: they are the network's own."""
    calibration: Calibration | None = None
    """What the cosine of two features means, where that was found for exactly this network."""

    def __post_init__(self) -> None:
        _check_kinds(self)
        network = architecture(self.name)
        for name in ("img_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "provenance", dict(self.provenance or {}))
        object.__setattr__(self, "calibration", Calibration.of(self.calibration))
        object.__setattr__(self, "readout", Readout.of(self.readout))
        check_ranges(
            self, img_size=(1, _MAX_SIDE), stride=(0, None), mean=(None, None), std=(None, None),
            num_cameras=(0, _MAX_CAMERAS), num_views=(1, _MAX_CAMERAS), camera_weight=(None, None),
            jpm_shift=(1, None), registers=(0, _MAX_REGISTERS),
        )  # fmt: skip
        if not self.stride:
            object.__setattr__(self, "stride", network.default_stride)
        if self.position_resampling not in RESAMPLINGS:
            raise UserError(f"position_resampling must be one of {', '.join(RESAMPLINGS)}")
        if self.interpolation not in ("linear", "cubic"):
            raise UserError(f"interpolation {self.interpolation!r}: must be linear or cubic")
        if self.token_norm not in ("none", "instance"):
            raise UserError(f"token_norm {self.token_norm!r}: must be none or instance")
        if len(self.img_size) != 2:
            raise UserError(f"img_size {self.img_size}: must be (height, width)")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError("mean and std must each hold three numbers, and no std may be 0")
        if self.num_views > 1 and not self.num_cameras:
            raise UserError(
                f"num_views {self.num_views}: must be 1 without cameras; "
                "give num_cameras 1 where views alone are embedded"
            )
        network.check(self)
        if self.readout is not None:
            _check_readout(self)

    @property
    def architecture(self) -> Architecture:
        return architecture(self.name)

    @property
    def patch_size(self) -> int | None:
        """Pixels that a patch is high and wide; None where a network has no patches."""
        return self.architecture.patch_size

    @property
    def embed_dim(self) -> int:
        """The number of values of a feature."""
        return (self.readout and self.readout.dim) or self.read_dim

    @property
    def read_dim(self) -> int:
        """The number of values that are read of the network, before they are whitened."""
        read = self.readout
        if read is None or not read.parts:
            return self.own_dim
        return read.parts * self.architecture.map_dim + (self.own_dim if read.own else 0)

    @property
    def own_dim(self) -> int:
        """The number of values of the feature that the network was trained for."""
        return self.architecture.embed_dim * self.num_branches

    @property
    def num_branches(self) -> int:
        """The vectors of equal length that a feature is put together from."""
        return 1 + LOCAL_BRANCHES if self.jpm else 1

    @property
    def grid(self) -> tuple[int, int]:
        """The patches, or the cells of the last map, as (rows, columns)."""
        return self.architecture.grid(self.img_size, self.stride)

    def remembered(self, *keys: str) -> str | None:
        """The text that the provenance holds under these keys, one in another; None without it."""
        value: Any = self.provenance
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, str) and value else None

    def to_json(self) -> str:
        """One JSON object; the derived values are written too, for people and other programs.

        Of a calibration, a readout, registers or a token norm nothing is said where there is none,
        so that older versions can read the object.
        """
        values = asdict(self) | {name: getattr(self, name) for name in _DERIVED}
        for name, absent in _NEWER.items():
            if getattr(self, name) == absent:
                del values[name]
        return json.dumps(values)

    def changed(self, **values: Any) -> "BackboneSpec":
        """This spec with other values; without its calibration, if features are others then.

        Raises:
            TypeError: no such field.
        """
        found = replace(self, **values)
        same = {"objective": self.objective, "provenance": self.provenance}
        return found if replace(found, **same) == self else replace(found, calibration=None)

    @classmethod
    def from_json(cls, text: str) -> "BackboneSpec":
        """The inverse of ``to_json``.

        Raises:
            ValueError: not JSON, or fields that this version does not know.
            UserError: values that no network can have.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        if isinstance(values.get("provenance"), dict):
            _check_plain(values["provenance"])
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(values) - known - set(_DERIVED))
        if unknown or "name" not in values:
            raise ValueError(f"unknown fields {', '.join(unknown)}" if unknown else "no name")
        return cls(**{key: value for key, value in values.items() if key in known})

    def __str__(self) -> str:
        height, width = self.img_size
        views = f" x {self.num_views} views" if self.num_views > 1 else ""
        extras = [f"{self.num_cameras} camera{views} embeddings"] if self.num_cameras else []
        extras += [f"{self.registers} registers"] if self.registers else []
        extras += ["instance norm on tokens"] if self.token_norm == "instance" else []
        extras += [name for name in ("gem", "jpm", "feature_norm") if getattr(self, name)]
        extras += [self.objective] if self.objective else []
        extras += [str(self.readout)] if self.readout else []
        extras += ["calibrated"] if self.calibration else []
        cells = f"{self.architecture.map_name} {self.grid[0]}x{self.grid[1]}"
        return ", ".join([f"{self.name} at {height}x{width} ({cells})", *extras])


_DERIVED = ("patch_size", "grid", "embed_dim")

_NEWER = {"calibration": None, "readout": None, "registers": 0, "token_norm": "none"}

_MAX_SIDE, _MAX_CAMERAS, _MAX_DEPTH, _MAX_REGISTERS = 4096, 100_000, 32, 64
"""Beyond what anybody trains: a header that asks for more is no reason to fill the memory."""

_KINDS: dict[Any, tuple[type | tuple[type, ...], str]] = {
    str: (str, "a text"),
    Interpolation: (str, "a text"),
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
}
_LISTS = {"img_size": int, "mean": float, "std": float}


def _check_kinds(spec: BackboneSpec) -> None:
    """Raise ``UserError`` for a value of another type than its field's."""
    for entry in fields(spec):
        value = getattr(spec, entry.name)
        if entry.name in ("calibration", "readout"):
            continue
        if entry.name == "provenance":
            if not isinstance(value, Mapping | None):
                raise UserError(f"provenance {_shown(value)}: must be a table of names and values")
            continue
        listed = entry.name in _LISTS
        if listed and not isinstance(value, tuple | list):
            raise UserError(f"{entry.name} {_shown(value)}: must be a list of numbers")
        kind, words = _KINDS[_LISTS.get(entry.name, entry.type)]
        for single in value if listed else (value,):
            if not isinstance(single, kind) or (isinstance(single, bool) and kind is not bool):
                raise UserError(f"{entry.name} {_shown(value)}: must be {words}")


def _check_readout(spec: BackboneSpec) -> None:
    """Raise ``UserError`` where no such readout can be made of the network."""
    read, rows = spec.readout, spec.grid[0]
    if isinstance(spec.architecture, MGNArchitecture):
        raise UserError(f"{spec.name}: its feature is of parts already; leave its readout out")
    if read.parts > rows:
        raise UserError(
            f"parts {read.parts}: the map of {spec.name} at {spec.img_size[0]}x{spec.img_size[1]} "
            f"has {rows} rows; give {rows} or fewer"
        )
    if read.dim > spec.read_dim:
        raise UserError(f"dim {read.dim}: {spec.read_dim} values cannot become more; give fewer")
    if read.parts and spec.num_views > 1:
        raise UserError("parts: not made for networks that embed viewpoints; give 0")


def _check_plain(value: Any, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise UserError(f"provenance: nested deeper than {_MAX_DEPTH} levels")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for single in inner:
        _check_plain(single, depth + 1)


def _shown(value: Any) -> str:
    return repr(value)[:60]
