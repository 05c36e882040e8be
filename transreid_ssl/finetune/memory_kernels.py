"""The vectors of all clusters moved towards their images by one kernel; no host waits for it."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _follow(memory, features, order, labels, images, kept, given, D, WIDTH: tl.constexpr):
    """The first image of a cluster moves its vector, then the images that follow it do."""
    place = tl.program_id(0)
    label = tl.load(labels + place)
    before = tl.load(labels + tl.maximum(place - 1, 0))
    if (place == 0) | (before != label):
        columns = tl.arange(0, WIDTH)
        inside = columns < D
        vector = tl.load(memory + label * D + columns, mask=inside, other=0.0)
        same = True
        while same:
            row = tl.load(order + place)
            image = tl.load(features + row * D + columns, mask=inside, other=0.0)
            vector = kept * vector + given * image
            # As F.normalize does it, to which a vector of zeros stays one.
            vector = vector / tl.maximum(tl.sqrt(tl.sum(vector * vector)), 1e-12)
            place += 1
            following = tl.load(labels + tl.minimum(place, images - 1))
            same = (place < images) & (following == label)
        tl.store(memory + label * D + columns, vector, mask=inside)


def follow_each(
    memory: Tensor, features: Tensor, order: Tensor, labels: Tensor, momentum: float
) -> None:
    """In place: cluster vectors move towards their images, one after the other.

    Args:
        memory: float32 (C, D), contiguous.
        features: float32 (B, D).
        order: int64 (B,), the rows of ``features`` by their cluster.
        labels: int64 (B,), the clusters in that order.
        momentum: what a vector keeps of itself.
    """
    images, dim = features.shape
    with torch.cuda.device_of(memory):
        _follow[images,](
            memory, features.contiguous(), order, labels, images, momentum, 1 - momentum, dim,
            WIDTH=triton.next_power_of_2(dim),
        )  # fmt: skip
