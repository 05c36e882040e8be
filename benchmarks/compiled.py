"""What compiled blocks keep for their backward pass, and what they compute twice, on a CPU.

    python -m benchmarks.compiled     # DINO of ViT-S/16+ICS in bf16, two minutes
    python -m benchmarks.compiled --model vit_base_patch16_ics --memory 0.3 0.8

Steps go the way of a GPU, as in ``benchmarks.counts``: blocks are taken to pieces and divided into
forward and backward by the compiler, for each share of ``--run.compile_memory``, but run without
code of its own. Beside them stands the step as one would first write it, under autocast too. How
long a GPU takes for what is computed twice, ``benchmarks.gpu`` measures.
``ratio`` is what the plain step keeps over what ours keeps at the first share.
"""

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from benchmarks.counts import as_on_a_gpu, holding
from benchmarks.reporting import finish, heading, row
from benchmarks.training_step import Ours, Plain, build, views
from transreid_ssl import command
from transreid_ssl.models import ReIDViT
from transreid_ssl.models.blocks import PackedBlock
from transreid_ssl.pretrain import DINO
from transreid_ssl.training.speed import set_compiler


class Divided:
    """``torch.compile`` but for its code: graphs are divided, their products counted, and run."""

    def __init__(self) -> None:
        from functorch.compile import min_cut_rematerialization_partition
        from torch._dynamo.backends.common import aot_autograd
        from torch._inductor.decomposition import select_decomp_table

        self.products = 0
        """Floating-point operations of matrix products of all graphs, each counted once."""
        self.backend = aot_autograd(
            fw_compiler=self._count, bw_compiler=self._count,
            decompositions=select_decomp_table,
            partition_fn=functools.partial(
                min_cut_rematerialization_partition, compiler="inductor"
            ),
        )  # fmt: skip

    def _count(self, graph: GraphModule, _: Any) -> Callable[..., Any]:
        from functorch.compile import make_boxed_func

        self.products += sum(products(graph))
        return make_boxed_func(graph.forward)

    @functools.cache  # noqa: B019 - as long as a measurement
    def program(self) -> Callable[..., Tensor]:
        """What ``blocks.compiled_block`` gives."""
        return torch.compile(PackedBlock.forward_packed, dynamic=False, backend=self.backend)


def products(graph: GraphModule) -> Iterator[int]:
    """The floating-point operations of each matrix product of a graph."""
    for node in graph.graph.nodes:
        formula = flop_registry.get(getattr(node.target, "overloadpacket", None))
        if formula is not None:
            given = tree_map(lambda a: a.meta["val"] if hasattr(a, "meta") else a, node.args)
            yield formula(*given, out_val=node.meta["val"])


def kept(step: Callable[[list[Tensor]], Tensor], network: nn.Module, shrink: int) -> int:
    """Bytes an image that wait for the backward pass."""
    device, sizes = torch.device("cpu"), []
    step(views(2, device, shrink))  # makes the optimiser's state
    for images in (2, 4):
        with holding(network) as found:
            step(views(images, device, shrink))
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in found.values()))
    return (sizes[1] - sizes[0]) // 2


@contextmanager
def divided(memory: float) -> Iterator[Divided]:
    """Within it blocks that are to be compiled are divided instead, as a GPU's would be."""
    torch.compiler.reset()
    set_compiler(memory)
    found = Divided()
    with as_on_a_gpu(), mock.patch("transreid_ssl.models.vit.compiled_block", found.program):
        yield found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each share, and say it."""
    options = parse(arguments)
    objective = build(options.model, options.out_dim)
    for network in objective.modules():
        if isinstance(network, ReIDViT):
            network.compile_blocks()
    shares = {memory: measure(objective, memory, options) for memory in [1.0, *options.memory]}
    plain, device = build(options.model, options.out_dim), torch.device("cpu")
    step = torch.autocast("cpu", torch.bfloat16)(Plain(plain, device))
    before = kept(step, plain, options.shrink)
    print("\n".join(heading("DINO step in bf16", "kept, MB an image", "products of the blocks, %")))
    print(row("plain", f"{before / 1e6:.1f}", "100"))
    for memory, (size, flops) in shares.items():
        share = f"{100 * flops / shares[1.0][1]:.0f}"
        print(row(f"compiled, --run.compile_memory {memory:g}", f"{size / 1e6:.1f}", share))
    finish(
        before / shares[options.memory[0]][0], benchmark="compiled", model=options.model,
        plain=before, kept={memory: size for memory, (size, _) in shares.items()},
        products={memory: flops / shares[1.0][1] for memory, (_, flops) in shares.items()},
    )  # fmt: skip


def measure(objective: DINO, memory: float, options: argparse.Namespace) -> tuple[int, int]:
    """Bytes an image that are kept, and operations of the blocks' matrix products."""
    with divided(memory) as program:
        return kept(Ours(objective, "bf16"), objective, options.shrink), program.products


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="vit_small_patch16_ics")
    add("--memory", nargs="+", type=float, default=[0.3, 0.5, 0.8], help="--run.compile_memory")
    add("--out-dim", type=int, default=65536, help="outputs of DINO's head")
    add("--shrink", type=int, default=1, help="crops so many times smaller")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    command.run(main)
