"""What a teacher's logits are centred with: one running mean for all processes (DINO, eq. 4)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Centred(nn.Module):
    """The base of losses that own a centre, which moves on request, once a step, however many
    micro-batches it has: ``update_center`` after the optimiser's step, ``forget`` where none is
    made.

    Args:
        out_dim: K, outputs of the heads.
        momentum: What the centre keeps of itself in an update.
    """

    center: Tensor
    """float32 (1, K)."""

    def __init__(self, out_dim: int, momentum: float) -> None:
        super().__init__()
        self.center_momentum = momentum
        self.register_buffer("center", torch.zeros(1, out_dim))
        self.forget()

    def forget(self) -> None:
        """Drop the logits that wait for ``update_center``."""
        # Of all that was noted since the last update: the sum (1, K), and what it is a sum of.
        self._sum: Tensor | None = None
        self._count = 0

    def note(self, total: Tensor, count: int) -> None:
        """Let logits wait for ``update_center``: their sum (1, K), and how many they count as."""
        self._sum = total if self._sum is None else self._sum + total
        self._count += count

    @torch.no_grad()
    def update_center(self) -> None:
        """Move the centre towards the mean of what waits in all processes; it stays where that is
        nothing."""
        if self._sum is None:
            return
        total = torch.cat([self._sum[0], self._sum.new_full((1,), self._count)])
        self.forget()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
        mean = (total[:-1] / total[-1].clamp(min=1))[None]
        share = (1.0 - self.center_momentum) * (total[-1] > 0)
        self.center.lerp_(mean, share.to(mean.dtype))
