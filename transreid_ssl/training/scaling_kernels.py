"""Many tensors scaled in place by one kernel, each by its own number."""

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

STRETCH = 4096
"""Numbers of a tensor that a program scales."""


@triton.jit
def _scale(places, sizes, scales, owners, starts, STRETCH: tl.constexpr):
    """A stretch of one tensor; of those that are not to be scaled nothing is read."""
    owner = tl.load(owners + tl.program_id(0))
    scale = tl.load(scales + owner)
    if scale != 1.0:
        numbers = tl.load(places + owner).to(tl.pointer_type(tl.float32))
        offsets = tl.load(starts + tl.program_id(0)) + tl.arange(0, STRETCH)
        inside = offsets < tl.load(sizes + owner)
        values = tl.load(numbers + offsets, mask=inside)
        tl.store(numbers + offsets, values * scale, mask=inside)


def scale_each(tensors: Sequence[Tensor], scales: Tensor) -> None:
    """In place: multiply each tensor by its scale.

    Args:
        tensors: N of float32, each without gaps in memory, on the device of ``scales``.
        scales: (N,) float32; they are not read by the host.
    """
    sizes, owners, starts = _stretches(tuple(map(Tensor.numel, tensors)), scales.device)
    # Gradients are allocated anew in every step, so their places are told anew.
    places = torch.tensor([tensor.data_ptr() for tensor in tensors])
    if scales.is_cuda:
        places = places.pin_memory().to(scales.device, non_blocking=True)
    if len(owners):
        with torch.cuda.device_of(scales):
            _scale[len(owners),](places, sizes, scales, owners, starts, STRETCH=STRETCH)


@functools.lru_cache(maxsize=8)
def _stretches(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The sizes int64 (N,); of every stretch int64 (S,) its tensor and where it begins in it."""
    counts = torch.tensor([-(-size // STRETCH) for size in sizes], dtype=torch.int64)
    owners = torch.repeat_interleave(counts)
    firsts = (counts.cumsum(0) - counts)[owners]
    starts = (torch.arange(len(owners)) - firsts) * STRETCH
    return torch.tensor(sizes).to(device), owners.to(device), starts.to(device)
