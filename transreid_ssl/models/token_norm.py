"""Instance norm on the patch tokens of a vision transformer."""

import torch
from torch import Tensor, nn


class TokenNorm(nn.Module):
    """Each of a token's D values normalised over the tokens of its image, then scale and shift.

    (B, rows, columns, D) -> the same shape and dtype; computed in float32. What an image's camera
    and light do to all of its patches alike is taken away before the first block, as instance norms
    do in a convolutional network (IBN-Net, Pan et al., 2018, section 3.1). An image of one patch
    gives the shift alone.
    """

    eps: float = 1e-5

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(torch.ones(dim))
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tensor) -> Tensor:
        values = tokens.float()
        centred = values - values.mean(dim=(1, 2), keepdim=True)
        variance = centred.square().mean(dim=(1, 2), keepdim=True)
        normal = centred * (variance + self.eps).rsqrt()
        return (normal * self.weight + self.bias).to(tokens.dtype)
