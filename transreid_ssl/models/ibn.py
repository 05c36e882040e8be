"""Instance and batch norm side by side."""

import torch
from torch import Tensor, nn


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the second (Pan et al., 2018).

    Instance norm removes the style of a camera, batch norm keeps what tells people apart.
    Input and output: (B, C, H, W). The attribute names are those of the published checkpoints.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split: int = channels // 2  # channels of the instance norm: the first
        self.IN = nn.InstanceNorm2d(self.split, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.split)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.IN(x[:, : self.split]), self.BN(x[:, self.split :])), dim=1)
