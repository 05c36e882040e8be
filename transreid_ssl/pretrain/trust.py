"""How far a pair of frames of a track is believed to show one person.

A tracker sometimes goes on with somebody else. Pairs across such a switch look, to the network that
is being trained, as alike as two people do. How alike two people look is known, since images of
different tracks are at hand in every batch; how alike one person's frames look follows from the
pairs themselves, as they are a mixture of both.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.pretrain.contrast import gather

_MOMENTUM = 0.99
_BEGIN, _WHOLE = 0.25, 0.5


class MateTrust(nn.Module):
    """The probability that each pair of a batch shows one person.

    Similarities (cosines of centred features of the slow network) of pairs are a mixture. How those
    of two people are distributed is known from images of different tracks. Few true pairs are less
    alike than two people on average, so twice the share of pairs that are tells how many pairs are
    of two people (as Storey, 2002, finds the share of true null hypotheses), and what is left of
    the pairs' moments are those of one person. Both are taken as normal distributions. A pair's
    probability is that of the model before its own batch has moved it, so that it does not depend
    on how a batch was shared out; the moments are running means over global batches, the same on
    all processes.

    A network that has learnt little compares places, poses and light: doubts would keep from it the
    very pairs that teach it people. All pairs count alike for the first quarter of a run, and the
    doubts grow until its half.

    In training mode the model moves on request, once a step: ``update`` after the optimiser's
    step, ``forget`` where none is made.

    Args:
        dim: D, of the features.
    """

    center: Tensor
    """float32 (D,): the mean of the features."""
    others: Tensor
    """float32 (2,): mean and mean square of the similarities between tracks."""
    pairs: Tensor
    """float32 (3,): of the pairs' similarities the mean and the mean square, and the share that is
    below the mean between tracks."""
    steps: Tensor
    """int64 0-d: steps so far."""
    doubts: Tensor
    """float32 0-d: how much of the doubts counts, from 0 to 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("others", torch.zeros(2))
        self.register_buffer("pairs", torch.zeros(3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("doubts", torch.zeros(()))
        self._waiting: list[tuple[Tensor, ...]] = []

    @torch.no_grad()
    def forward(self, images: Tensor, mates: Tensor, tracks: Tensor) -> Tensor:
        """Weights float32 (B,) from 0 to 1: 1 at the beginning of a run, then the probabilities.

        Args:
            images, mates: Features (B, D) of an image and of its mate.
            tracks: Their tracks, int64 (B,).
        """
        with torch.autocast(images.device.type, enabled=False):
            images, mates = images.float(), mates.float()
            if self.training:
                self._note(gather(images[None]), gather(mates[None]), gather(tracks[None]))
            pairs = (_unit(images, self.center) * _unit(mates, self.center)).sum(dim=1)
            return torch.where(
                self.doubts > 0, 1 - self.doubts * (1 - self.probability(pairs)), 1.0
            )

    def share(self) -> Tensor:
        """Of the pairs that show one person, 0-d; a network that knows nobody yet tells nothing of
        it, and at least half are presumed to."""
        return (1 - 2 * self.pairs[2]).clamp(0.5, 0.999)

    def probability(self, similarities: Tensor) -> Tensor:
        """That pairs of these similarities show one person; it never falls as they rise."""
        share = self.share()
        low, low_spread = _moments(self.others)
        high, high_spread = _moments((self.pairs[:2] - (1 - share) * self.others) / share)
        # Beyond the means the normal distributions' tails would turn the order round.
        inside = similarities.clamp(low, torch.maximum(high, low))
        same = share.log() + _log_normal(inside, high, high_spread)
        other = (1 - share).log() + _log_normal(inside, low, low_spread)
        return torch.sigmoid(same - other)

    def _note(self, images: Tensor, mates: Tensor, tracks: Tensor) -> None:
        """The moments of a global micro-batch."""
        center = torch.cat([images, mates]).mean(dim=0)
        first = self.steps == 0
        known = torch.where(first, center, self.center)
        similarities = _unit(images, known) @ _unit(mates, known).T
        between = tracks[:, None] != tracks
        values = torch.where(between, similarities, 0)
        count = between.sum().clamp_min(1)
        others = torch.stack([values.sum(), values.square().sum()]) / count
        pairs = similarities.diagonal()
        mean = torch.where(first, others[0], self.others[0])
        below = (pairs < mean).float()
        pairs = torch.stack([pairs, pairs.square(), below]).mean(dim=1)
        self._waiting.append((center, others, pairs))

    def forget(self) -> None:
        """Drop the moments that wait for ``update``."""
        self._waiting.clear()

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Move the model by the moments of a step; its micro-batches count alike.

        Args:
            progress: The share of the run that is done.
        """
        if not self._waiting:
            return
        weight = torch.where(self.steps == 0, 1.0, 1 - _MOMENTUM)
        for kept, found in zip((self.center, self.others, self.pairs), zip(*self._waiting)):
            kept.lerp_(torch.stack(found).mean(dim=0), weight)
        self.steps += 1
        self.doubts.fill_(min(max((progress - _BEGIN) / (_WHOLE - _BEGIN), 0.0), 1.0))
        self.forget()


def _unit(features: Tensor, center: Tensor) -> Tensor:
    return F.normalize(features - center, dim=1)


def _moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, of the mean and the mean square."""
    mean, mean_square = moments
    return mean, (mean_square - mean.square()).clamp_min(1e-4).sqrt()


def _log_normal(values: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    return -0.5 * ((values - mean) / spread).square() - spread.log()


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return values.view_as(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return gradient * weights[:, None].to(gradient.dtype), None


def weigh_gradient(values: Tensor, weights: Tensor) -> Tensor:
    """``values`` (N, K) as they are, whose gradients are multiplied by ``weights`` (N,).

    A loss that is a mean over rows then teaches by the weighted mean, whatever kernel computes it;
    the loss that is reported is the plain one.
    """
    return _ScaledGradient.apply(values, weights)
