"""Instance and batch norm side by side."""

import torch
from torch import Tensor, nn

from transreid_ssl.models.sums import keeps_order


def _contiguous(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.contiguous()


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
        if keeps_order(x.device):
            return torch.cat((self.IN(x[:, : self.split]), self.BN(x[:, self.split :])), dim=1)
        # Norms take five times as long over half of the channels of larger maps, on a CPU, as over
        # maps of their own; and as long again for their gradients.
        channels = [self.split, x.shape[1] - self.split]
        halves = [half.contiguous() for half in x.split(channels, dim=1)]
        halves = [norm(half) for norm, half in zip((self.IN, self.BN), halves, strict=True)]
        for half in halves:
            if half.requires_grad and not torch.compiler.is_compiling():
                half.register_hook(_contiguous)
        return torch.cat(halves, dim=1)
