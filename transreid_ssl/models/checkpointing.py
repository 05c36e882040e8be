"""Blocks that are computed twice instead of kept (gradient checkpointing), with their batch norms.

The second time is part of the backward pass: norms take statistics of the batch once more, and the
running ones must not move again.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from transreid_ssl.models.norms import BlockNorm


def run_blocks(stages: Iterable[Iterable[nn.Module]], x: Tensor, twice: bool) -> Tensor:
    """What blocks make of ``x`` one after the other; ``twice``: nothing within a block is kept."""
    for stage in stages:
        for block in stage:
            x = _checkpoint(block, x) if twice and torch.is_grad_enabled() else block(x)
    return x


def _checkpoint(block: nn.Module, x: Tensor) -> Tensor:
    # Not compiled: with its norms at rest a block would be another program, which may keep others
    # of its numbers than the first, and checkpointing takes that for a fault.
    return checkpoint(
        getattr(block, "plain_forward", block), x, use_reentrant=False,
        context_fn=lambda: (nullcontext(), _at_rest(block)),
    )  # fmt: skip


@contextmanager
def _at_rest(block: nn.Module) -> Iterator[None]:
    """Within it no running statistics of the block move."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        _stop(norm)
    try:
        yield
    finally:
        for norm in norms:
            _let_go(norm)


def _stop(norm: _BatchNorm) -> None:
    # Running statistics have to be given to it: without, it would keep other tensors than before,
    # which checkpointing takes for a fault.
    norm._momentum, norm.momentum = norm.momentum, 0.0


def _let_go(norm: _BatchNorm) -> None:
    norm.momentum = norm.__dict__.pop("_momentum")
    counts = norm.training and norm.track_running_stats and not isinstance(norm, BlockNorm)
    if counts and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.sub_(1)


def move_once(network: nn.Module) -> None:
    """For a network that checkpoints by itself: its norms look where they are called. Norms that
    have been told so already are left alone."""
    for norm in network.modules():
        if (
            isinstance(norm, _BatchNorm)
            and _rest_in_backward not in norm._forward_pre_hooks.values()
        ):
            norm.register_forward_pre_hook(_rest_in_backward)
            norm.register_forward_hook(_move_again, always_call=True)


def _rest_in_backward(norm: nn.Module, _: Any) -> None:
    assert isinstance(norm, _BatchNorm)
    if torch._C._current_graph_task_id() != -1:  # a backward pass is under way
        _stop(norm)


def _move_again(norm: nn.Module, _: Any, __: Any) -> None:
    assert isinstance(norm, _BatchNorm)
    if "_momentum" in norm.__dict__:
        _let_go(norm)
