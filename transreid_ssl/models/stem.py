"""From an image to a grid of patch embeddings: plain or overlapping patches, or the IBN stem."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from timm.layers import to_2tuple
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.models.ibn import IBN
from transreid_ssl.models.norm_relu import as_rows, norm_relu, runs_kernels
from transreid_ssl.models.statistics import Statistics, normalise, require_tensor
from transreid_ssl.models.sums import keeps_order


class ConvolutionStem(nn.Sequential):
    """Convolution, norm and ReLU in turns; each norm and its ReLU are computed together.

    (B, C, H, W) -> (B, hidden, H/2, W/2), or what ``then``, the layer that comes next, makes of it.
    """

    def forward(
        self, images: Tensor, then: Callable[[Tensor], Tensor] | None = None, patch: int = 0
    ) -> Tensor:
        return self.after_first(self[0](images), then, patch)

    def after_first(
        self, x: Tensor, then: Callable[[Tensor], Tensor] | None = None, patch: int = 0
    ) -> Tensor:
        """What follows the first convolution; ``patch`` is ``norm_relu``'s, for ``then``."""
        layers = list(self)
        for norm, following in zip(layers[1:-3:3], layers[3::3], strict=True):
            x = norm_relu(x, norm, following)
        return norm_relu(x, layers[-2], then or nn.Identity(), patch)


def _folds(convolution: nn.Conv2d, images: Tensor) -> bool:
    """Whether ``folded_convolution`` computes this one, for images of this size."""
    shape = convolution.kernel_size, convolution.stride, convolution.padding
    sides = images.shape[-2] % 2 == 0 and images.shape[-1] % 2 == 0 and images.shape[1] <= 4
    return shape == ((7, 7), (2, 2), (3, 3)) and convolution.bias is None and sides


def folded(images: Tensor) -> Tensor:
    """Squares of 2x2 pixels as channels, with zeros around: (B, C, H, W), C at most 4, H and W
    even, to (B, 16, H/2 + 3, W/2 + 3), channels last."""
    squares = rearrange(F.pad(images, (4, 2, 4, 2)), "b c (h r) (w s) -> b h w (c r s)", r=2, s=2)
    return F.pad(squares, (0, 16 - squares.shape[3])).permute(0, 3, 1, 2)


def folded_convolution(squares: Tensor, weight: Tensor) -> Tensor:
    """A convolution of 7x7, stride 2 and padding 3 as one of 4x4 over ``folded`` images.

    Three channels leave matrix units idle: it takes three times as long as the same arithmetic over
    12 channels. Weights are (O, C, 7, 7), the result (B, O, H/2, W/2).
    """
    # The seven rows and columns of a kernel fill eight but for the first.
    kernel = rearrange(F.pad(weight, (1, 0, 1, 0)), "o c (h r) (w s) -> o (c r s) h w", r=2, s=2)
    kernel = F.pad(kernel, (0, 0, 0, 0, 0, 16 - kernel.shape[1]))
    return F.conv2d(squares, kernel.contiguous(memory_format=torch.channels_last))


def stem_layers(in_channels: int, hidden: int, norm: str = "ibn") -> ConvolutionStem:
    """The convolution stem, at half the image's resolution (TransReID-SSL, section 3.4).

    (B, in_channels, H, W) -> (B, hidden, H/2, W/2). With "ibn" it is the paper's ICS, whose last
    norm is a plain batch norm; with "bn" all three are.
    """
    normalise = {"ibn": IBN, "bn": nn.BatchNorm2d}[norm]
    return ConvolutionStem(
        nn.Conv2d(in_channels, hidden, kernel_size=7, stride=2, padding=3, bias=False),
        normalise(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, bias=False),
        normalise(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
    )


def patch_grid(
    img_size: tuple[int, int], patch_size: int, stride: int | None = None
) -> tuple[int, int]:
    """How many patches fit, as (rows, columns); they overlap where ``stride < patch_size``."""
    stride = stride or patch_size
    return (img_size[0] - patch_size) // stride + 1, (img_size[1] - patch_size) // stride + 1


class PatchEmbedding(nn.Module):
    """Image (B, 3, H, W) -> patch embeddings (B, rows, columns, D), for any size.

    Speaks the protocol of timm's ``PatchEmbed``, so that timm's ``VisionTransformer`` can hold it.

    Args:
        img_size: (height, width) that the position embeddings are learnt for.
        stem_hidden: channels of the convolution stem; 0 for plain patches.
        stem_norm: "ibn" (the paper's ICS) or "bn".
        stride: distance between patches; ``patch_size`` when None. If smaller, they overlap.

    Raises:
        ValueError: the image is smaller than a patch, or the stride is odd though the stem halves
            the image.
    """

    patch_size: tuple[int, int]
    img_size: tuple[int, int]
    grid_size: tuple[int, int]
    num_patches: int
    stride: int
    conv: nn.Module
    proj: nn.Conv2d

    def __init__(
        self,
        img_size: int | tuple[int, int] = (256, 128),
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 384,
        *,
        stem_hidden: int = 0,
        stem_norm: str = "ibn",
        stride: int | None = None,
        bias: bool = True,
        output_fmt: str = "NHWC",
        strict_img_size: bool = False,
        dynamic_img_pad: bool = False,
        **factory: Any,
    ) -> None:
        super().__init__()
        if output_fmt != "NHWC" or strict_img_size or dynamic_img_pad:
            raise ValueError("only dynamic image sizes without padding are supported")
        self.patch_size = to_2tuple(patch_size)
        self.stride = stride or self.patch_size[0]
        halving = 2 if stem_hidden else 1
        if self.stride % halving or self.patch_size[0] % halving:
            raise ValueError(f"stride {self.stride}: the stem halves the image, so it must be even")
        self._set_grid(img_size)
        self.conv = nn.Identity()
        if stem_hidden:
            self.conv = stem_layers(in_chans, stem_hidden, stem_norm)
        self.proj = nn.Conv2d(
            stem_hidden or in_chans,
            embed_dim,
            kernel_size=self.patch_size[0] // halving,
            stride=self.stride // halving,
            bias=bias,
        )
        self.to(**factory)

    def _set_grid(self, img_size: int | tuple[int, int]) -> None:
        self.img_size = to_2tuple(img_size)
        self.grid_size = self.dynamic_feat_size(self.img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        if min(self.grid_size) < 1:
            raise ValueError(f"img_size {self.img_size} is smaller than a patch {self.patch_size}")

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """The patch grid (rows, columns) of an image of this size."""
        return patch_grid(img_size, self.patch_size[0], self.stride)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels per patch step."""
        return self.stride if as_scalar else (self.stride, self.stride)

    def set_input_size(
        self, img_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
    ) -> None:
        """Change the size that the position embeddings are for; the patch size is fixed."""
        if patch_size is not None and to_2tuple(patch_size) != self.patch_size:
            raise ValueError("the patch size of a built network cannot be changed")
        if img_size is not None:
            self._set_grid(img_size)

    def forward(self, images: Tensor, statistics: Statistics | None = None) -> Tensor:
        """``statistics`` normalise images of uint8; floats are normalised already."""
        require_tensor(images)
        if runs_kernels(images):
            return self._forward_on_gpu(images, statistics)
        if statistics is not None:
            images = normalise(images, *statistics)
        maps = self.conv(images)
        if not keeps_order(maps.device) and self._takes_rows(maps.shape[-2:]):
            size = self.proj.kernel_size[0]
            rows = rearrange(maps, "b c (h p) (w q) -> b h w (c p q)", p=size, q=size)
            return F.linear(rows, self.proj.weight.flatten(1), self.proj.bias)
        return self.proj(maps).permute(0, 2, 3, 1)

    def _takes_rows(self, sides: Sequence[int]) -> bool:
        """Whether patches of maps of this size neither overlap nor leave anything out, so that they
        can be the rows of a product of matrices."""
        size = self.proj.kernel_size
        return self.proj.stride == size and not any(side % size[0] for side in sides)

    def _forward_on_gpu(self, images: Tensor, statistics: Statistics | None) -> Tensor:
        """The same for matrix units: channels last, and products of matrices where it can be."""
        dtype = self.proj.weight.dtype
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
        size, stem = self.proj.kernel_size[0], isinstance(self.conv, ConvolutionStem)
        sides = [(side + 1) // 2 if stem else side for side in images.shape[-2:]]
        rows = self._takes_rows(sides)
        project = partial(project_rows, projection=self.proj) if rows else self.proj
        fold = stem and _folds(self.conv[0], images)
        if fold and images.dtype == torch.uint8 and statistics is not None:
            from transreid_ssl.models.fold_kernels import fold_images

            squares = fold_images(images, statistics, dtype)
        else:
            if statistics is not None:
                images = normalise(images, *statistics)
            images = images.to(dtype, memory_format=torch.channels_last)
            squares = folded(images) if fold else None
        if not stem:
            maps = project(as_rows(images, size) if rows else images)
        else:
            first = (
                folded_convolution(squares, self.conv[0].weight) if fold else self.conv[0](images)
            )
            maps = self.conv.after_first(first, project, size if rows else 0)
        return maps if rows else maps.permute(0, 2, 3, 1)


def project_rows(patches: Tensor, projection: nn.Conv2d) -> Tensor:
    """A convolution of patches that do not overlap, given as rows, as a product of matrices. The
    gradient took 2.3 for the convolution's 10.2 ms (512 images of 256x128, H200)."""
    return F.linear(patches, rearrange(projection.weight, "d c p q -> d (p q c)"), projection.bias)
