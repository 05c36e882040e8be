"""How many images a batch norm takes its statistics of, on one process or on several."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from transreid_ssl.errors import UserError
from transreid_ssl.words import counted


class BlockNorm(_BatchNorm):
    """A batch norm that takes its statistics of blocks of a batch, as if each were a batch.

    So one process computes what as many GPUs compute whose norms are not synchronised. In
    evaluation, and with the names of its weights, it is the norm that it was made of. As there, the
    running statistics follow the first block, the part of the first GPU.

    Args:
        norm: Its weights and running statistics are taken over, not copied.
        images: Images of a block.
        blocks: Blocks of a batch. A batch of several views holds all images of the first view, then
            all of the second; a block has all views of its images.

    In training it raises ``UserError`` for a block of a single vector, which has no variance.
    """

    tracks = True
    """Whether training moves the running statistics."""

    images: int
    blocks: int
    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, norm: _BatchNorm, images: int, blocks: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.images, self.blocks = images, blocks
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)

    def average(self, values: Tensor) -> Tensor:
        """Of a number an image (B, C) the mean over its block, for every image: (B, C)."""
        views = rearrange(
            values, "(views blocks images) channels -> views blocks images channels",
            blocks=self.blocks, images=self.images,
        )  # fmt: skip
        return views.mean((0, 2), keepdim=True).expand_as(views).flatten(0, 2)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes: vectors (B, C) and maps (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        blocks = rearrange(
            input, "(views blocks images) ... -> blocks (views images) ...",
            blocks=self.blocks, images=self.images,
        )  # fmt: skip
        found = [self._normalise(block, self.tracks and not i) for i, block in enumerate(blocks)]
        return rearrange(
            found, "blocks (views images) ... -> (views blocks images) ...", images=self.images
        )

    def _normalise(self, block: Tensor, track: bool) -> Tensor:
        if block.numel() == self.num_features:
            raise UserError(
                f"--run.norm_images {self.images}: batch norms in necks and heads need two images "
                "or more; give 2 or more, or leave it out"
            )
        running = (self.running_mean, self.running_var) if track else (None, None)
        return F.batch_norm(block, *running, self.weight, self.bias, True, self.momentum, self.eps)


def group_norms(
    model: nn.Module,
    *,
    device: torch.device | str,
    num_processes: int,
    norm_images: int | None = None,
    images: int = 0,
) -> nn.Module:
    """Let batch norms take their statistics of so many images; call it before wrapping the model.

    Args:
        model: Changed in place; its weights keep their names.
        device: Where it will run: only GPUs can share statistics between processes.
        num_processes: How many there are.
        norm_images: Images that are normalised together: parts of what a process has at once, or
            that of several processes. None: those of all processes on GPUs, of each on CPUs.
        images: What a process has at once, a micro-batch.

    Raises:
        UserError: the numbers do not divide each other, or CPUs would have to share.
    """
    shared = torch.device(device).type == "cuda" and num_processes > 1
    if norm_images is None:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model) if shared else model
    if images % norm_images == 0:
        return _in_blocks(model, norm_images, images // norm_images)
    members = norm_images // images
    if norm_images % images or num_processes % members:
        raise UserError(
            f"--run.norm_images {norm_images}: {counted(num_processes, 'process', 'processes')} "
            f"with {counted(images, 'image')} each at once cannot be put "
            "together to so many; give a divisor or a multiple"
        )
    if not shared:
        raise UserError(
            f"--run.norm_images {norm_images}: CPUs cannot share statistics; give a divisor of "
            f"the {images} images that a process has at once"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model, _own_group(num_processes, members))


def _in_blocks(model: nn.Module, images: int, blocks: int) -> nn.Module:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, BlockNorm(child, images, blocks))
    return model


def _own_group(num_processes: int, members: int) -> dist.ProcessGroup:
    """This process's group of neighbours; every process has to make all groups."""
    ranks = range(num_processes)
    groups = [dist.new_group(ranks[i : i + members]) for i in range(0, num_processes, members)]
    return groups[dist.get_rank() // members]


def block_norms(model: nn.Module) -> Iterator[BlockNorm]:
    """The norms of ``model`` that work in blocks."""
    return (module for module in model.modules() if isinstance(module, BlockNorm))


def average_of(norm: _BatchNorm) -> Callable[[Tensor], Tensor] | None:
    """How a norm shares statistics: it makes of a number an image, (B, C), the mean over the images
    that are normalised together, (B, C). None where the running statistics are used instead."""
    if not norm.training and norm.running_mean is not None:
        return None
    if isinstance(norm, BlockNorm):
        return norm.average
    if isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
        return partial(_average_of_processes, group=norm.process_group)
    return _average_of_batch


def _average_of_batch(values: Tensor) -> Tensor:
    return values.mean(0, keepdim=True).expand_as(values)


def _average_of_processes(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """All processes have equally many images, as the samplers see to it."""
    mean = values.mean(0, keepdim=True)
    dist.all_reduce(mean, group=group)
    return mean.div_(dist.get_world_size(group)).expand_as(values)


@torch.no_grad()
def move_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor, pixels: int) -> None:
    """Let the running statistics follow, as the norm's own forward pass does.

    Args:
        mean, variance: (B, C), as ``average_of`` made them; a block norm follows its first block.
        pixels: of an image.
    """
    images = len(mean)
    if isinstance(norm, BlockNorm):
        if not norm.tracks:
            return
        images //= norm.blocks
    elif isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
        images *= dist.get_world_size(norm.process_group)
    if norm.running_mean is None:
        return
    values = images * pixels
    norm.running_mean.lerp_(mean[0].to(norm.running_mean.dtype), norm.momentum)
    unbiased = variance[0] * (values / max(values - 1, 1))
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    if not isinstance(norm, BlockNorm):
        norm.num_batches_tracked.add_(1)
