"""From an image to a grid of patch embeddings: plain or overlapping patches, or the IBN stem."""

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the second (Pan et al., 2018).

    Instance norm removes the style of a camera, batch norm keeps what tells people apart.
    Input and output: (B, C, H, W). The attribute names are those of the published checkpoints.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.IN(x[:, : self.half]), self.BN(x[:, self.half :])), dim=1)


def stem_layers(in_channels: int, hidden: int, norm: str = "ibn") -> nn.Sequential:
    """The convolution stem, at half the image's resolution (TransReID-SSL, section 3.4).

    (B, in_channels, H, W) -> (B, hidden, H/2, W/2). With "ibn" it is the paper's ICS, whose last
    norm is a plain batch norm; with "bn" all three are.
    """
    normalise = {"ibn": IBN, "bn": nn.BatchNorm2d}[norm]
    return nn.Sequential(
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
        **factory: torch.device | torch.dtype | None,
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

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.conv(images)).permute(0, 2, 3, 1)
