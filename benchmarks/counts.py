"""What a DINO step asks of any GPU, counted on a CPU: operations, bytes kept, bytes copied.

    python -m benchmarks.counts                         # ViT-S/16+ICS, a minute
    python -m benchmarks.counts --model vit_small_patch16_reid

Ours is taken down the way that a GPU goes, but for the compiler: kernels of our own are counted and
not started, so that what is computed is of no meaning. Beside it stands the step as one would first
write it (``benchmarks.training_step``), with a CPU's attention of single products. These figures
are the same on every machine, and tests hold them; how fast a GPU is with them, ``benchmarks.gpu``
measures. ``ratio`` is that of operations.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.reporting import finish, heading, row
from benchmarks.training_step import Ours, Plain, build, views
from transreid_ssl import command
from transreid_ssl.models import blocks
from transreid_ssl.pretrain import DINOLoss

_NOTHING_MOVES = {"_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "lift_fresh"}
"""Operations that touch no data, though their schemas do not call them views."""
_COPIES = {"_to_copy", "cat", "clone", "copy_", "stack"}
"""What only moves data: into another layout or precision, or together."""

KERNELS = 0
"""Of our own, that ``as_on_a_gpu`` has counted."""


@dataclass(frozen=True)
class Counts:
    """Of one step.

    Attributes:
        operations: that read or write data, our kernels among them.
        kept: bytes an image that wait for the backward pass, each storage once, weights left out.
        logits: bytes of them an image that are as wide as the head's outputs.
        copied: bytes an image that are only moved: into another layout, or together.
    """

    operations: int
    kept: int
    logits: int
    copied: int


class Counting(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.copied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        name = func._schema.name.partition("::")[2]
        ours = func.namespace == "transreid_ssl"  # its kernels are counted where they start
        self.operations += not (func.is_view or ours or name in _NOTHING_MOVES)
        result = func(*args, **(kwargs or {}))
        if name in _COPIES:
            self.copied += result.nbytes
        return result


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Within it a CPU goes the ways of a GPU, and kernels of our own count and do nothing."""
    from triton.runtime.jit import KernelInterface  # not on every system

    def launcher(*_: Any) -> Callable[..., None]:
        def launch(*_: Any, **__: Any) -> None:
            global KERNELS
            KERNELS += 1

        return launch

    with contextlib.ExitStack() as stack:
        for room in ("norm_relu", "stem"):
            name = f"transreid_ssl.models.{room}.runs_kernels"
            stack.enter_context(mock.patch(name, return_value=True))
        for room in ("ibn", "stem", "vit"):
            name = f"transreid_ssl.models.{room}.keeps_order"
            stack.enter_context(mock.patch(name, return_value=False))
        draw = mock.patch.object(blocks, "_draw", blocks._draw_at_once)
        stack.enter_context(draw)
        look = mock.Mock(return_value=blocks._look_by_kernels)
        stack.enter_context(mock.patch("transreid_ssl.models.vit.best_look", look))
        stack.enter_context(mock.patch.object(DINOLoss, "_compare", DINOLoss._compare_on_gpu))
        stack.enter_context(mock.patch.object(KernelInterface, "__getitem__", launcher))
        yield


def count(
    step: Callable[[list[Tensor]], Tensor], network: nn.Module, out_dim: int, shrink: int = 1
) -> Counts:
    """Count a step of ``network``, which ``step`` makes of groups of crops."""
    device = torch.device("cpu")
    step(views(2, device, shrink))  # makes the optimiser's state
    few, many = (
        _of_step(step, network, views(images, device, shrink), out_dim) for images in (2, 4)
    )
    kept, logits, copied = ((b - a) // 2 for a, b in zip(few[1:], many[1:]))
    return Counts(few[0], kept, logits, copied)


def _of_step(
    step: Callable[[list[Tensor]], Tensor], network: nn.Module, groups: list[Tensor], out_dim: int
) -> tuple[int, int, int, int]:
    """Operations, and bytes kept, of logits among them, and copied."""
    with mock.patch(f"{__name__}.KERNELS", 0), holding(network) as kept, Counting() as counting:
        step(groups)
        operations = counting.operations + KERNELS
    held = {tensor: tensor.untyped_storage().nbytes() for tensor in kept.values()}
    logits = sum(size for tensor, size in held.items() if out_dim in tensor.shape)
    return operations, sum(held.values()), logits, counting.copied


@contextlib.contextmanager
def holding(network: nn.Module) -> Iterator[dict[int, Tensor]]:
    """Gives what waits for a backward pass, one tensor of each storage, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors stay, so that no place in memory is used twice

    def note(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Count both, and say it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_small_patch16_ics")
    parser.add_argument("--out-dim", type=int, default=65536, help="outputs of DINO's head")
    parser.add_argument("--shrink", type=int, default=1, help="crops so many times smaller")
    options = parser.parse_args(arguments)
    device, found = torch.device("cpu"), {}
    for name in ("plain", "ours"):
        objective = build(options.model, options.out_dim)
        if name == "plain":
            found[name] = count(
                Plain(objective, device), objective, options.out_dim, options.shrink
            )
        else:
            with as_on_a_gpu():
                found[name] = count(
                    Ours(objective, "no"), objective, options.out_dim, options.shrink
                )
    titles = "operations", "kept, MB an image", "logits of it", "copied, MB an image"
    print("\n".join(heading("a step in float32", *titles)))
    for name, counts in found.items():
        sizes = [f"{size / 1e6:.1f}" for size in (counts.kept, counts.logits, counts.copied)]
        print(row(name, f"{counts.operations:,}", *sizes))
    finish(
        found["plain"].operations / found["ours"].operations, benchmark="counts",
        model=options.model, **{name: asdict(counts) for name, counts in found.items()},
    )  # fmt: skip


if __name__ == "__main__":
    command.run(main)
