"""A network as programs without this package call it: pixels go in, features of length 1 come out.

Resizing is written with sums and products alone: the antialiasing of ONNX's own Resize is not known
to every runtime, and none resizes as the images of training and evaluation are resized here.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.models.build import Backbone
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.statistics import normalise

Pixels = Literal["uint8", "float", "normalised"]
"""uint8 from 0 to 255; float32 from 0 to 1; or float32 with the mean and deviation taken out."""


class ExportedNetwork(nn.Module):
    """Images (B, 3, H, W) as ``pixels`` says -> unit features, float32 (B, D).

    Args:
        backbone: with ``.spec``; in evaluation mode.
        pixels: what the images hold.
        resize: take images of any size, and resize them as ``transreid_ssl.data.resize`` does.
        half: compute in float16 between normalised pixels and features, with a copy of it.
    """

    def __init__(
        self, backbone: Backbone, pixels: Pixels = "uint8", resize: bool = False,
        half: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.spec: BackboneSpec = backbone.spec
        self.backbone: Backbone = copy.deepcopy(backbone).half() if half else backbone
        self.pixels: Pixels = pixels
        self.resize: bool = resize
        self.half_precision: bool = half

    def forward(self, images: Tensor) -> Tensor:
        if self.resize:
            images = self._resized(images)
        if self.pixels != "normalised":
            scaled = images if self.pixels == "uint8" else images * 255
            images = normalise_pixels(scaled, self.spec)
        if self.half_precision:
            images = images.half()
        return F.normalize(self.backbone(images).float(), dim=1)

    def _resized(self, images: Tensor) -> Tensor:
        top = {"uint8": 255.0, "float": 1.0}.get(self.pixels)
        found = resize(images.float(), self.spec.img_size, self.spec.interpolation)
        if top is None:
            return found
        # Between images of whole numbers, as on disk.
        return (found * (255 / top)).clamp(0, 255).round() * (top / 255)


def as_pixels(images: Tensor, pixels: Pixels, spec: BackboneSpec) -> Tensor:
    """uint8 images as a program wants them that takes ``pixels``."""
    if pixels == "uint8":
        return images
    return images.float() / 255 if pixels == "float" else normalise(images, spec.mean, spec.std)


def normalise_pixels(images: Tensor, spec: BackboneSpec) -> Tensor:
    """Images of 0…255, whole numbers or not, to float32 as the network of ``spec`` takes them."""
    if not images.is_floating_point():
        return normalise(images, spec.mean, spec.std)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (spec.mean, spec.std))
    return (images - mean) / std


def resize(images: Tensor, size: tuple[int, int], interpolation: str = "linear") -> Tensor:
    """Float images (B, C, h, w) of any size to (B, C, *size), as ``data.resize`` up to rounding.

    "linear": shrinking averages areas; growing is linear; where one side shrinks and the other
    grows, triangles that widen along the side that shrinks. "cubic": cubic kernels that do.
    """
    lengths = [torch.arange(length, dtype=torch.float32) for length in images.shape[2:]]
    scales = [(places[-1] + 1) / new for places, new in zip(lengths, size)]
    both_shrink = (scales[0] >= 1) & (scales[1] >= 1)
    rows, columns = (
        _weights(places, scale, new, interpolation, both_shrink)
        for places, scale, new in zip(lengths, scales, size)
    )
    return rows @ images @ columns.mT


def _weights(
    places: Tensor, scale: Tensor, new: int, interpolation: str, shrinks: Tensor
) -> Tensor:
    """What each of the old pixels adds to each of the new, (new, old); rows sum to 1."""
    begin = torch.arange(new, dtype=torch.float32)[:, None] * scale
    support = scale.clamp(min=1)
    distance = ((places + 0.5) - (begin + scale / 2)).abs() / support
    if interpolation == "cubic":
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    else:
        # At the edges, what would lie outside counts for the outermost pixel, where sides grow.
        area = torch.minimum(places + 1, begin + scale) - torch.maximum(places, begin)
        weights = torch.where(shrinks, area.clamp(min=0), (1 - distance).clamp(min=0))
    return weights / weights.sum(1, keepdim=True)
