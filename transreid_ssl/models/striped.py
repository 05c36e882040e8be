"""Networks whose feature is a readout: beside a network that trains, or as one from a file."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from transreid_ssl.models.readout import Readout, ReadoutHead
from transreid_ssl.models.spec import BackboneSpec


class Striped(nn.Module):
    """A network's own feature and its stripes of one pass, not whitened, beside the network itself,
    which stays as it is: images (B, 3, H, W) to (B, D + parts · C)."""

    backbone: nn.Module
    spec: BackboneSpec
    readout: ReadoutHead

    def __init__(self, backbone: nn.Module, parts: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = backbone.spec.changed(readout=Readout(int(parts), own=True))
        self.readout = ReadoutHead(self.spec.readout, self.spec.read_dim)

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        return self.readout(*self.backbone.forward_with_map(images, cameras))


class _Reads:
    """A network whose feature is a readout; the rest, training included, is as it was."""

    def __init__(self, spec: BackboneSpec, **options: Any) -> None:
        super().__init__(spec, **options)
        self.readout = ReadoutHead(spec.readout, spec.read_dim)

    def forward(self, images: Tensor, cameras: Tensor | None = None, *views: Tensor) -> Tensor:
        if not self.spec.readout.parts:
            return self.readout(super().forward(images, cameras, *views))
        return self.readout(*self.forward_with_map(images, cameras))

    def forward_groups(self, groups: Sequence[Tensor]) -> Tensor:
        return torch.cat([self(images) for images in groups])


@lru_cache(maxsize=32)
def reading(network: type[nn.Module]) -> type[nn.Module]:
    """The class of such networks whose feature is what ``spec.readout`` says."""
    return type(f"{network.__name__}WithReadout", (_Reads, network), {})
