"""What makes a GPU's steps fast: compiled blocks, and passes replayed without their launches."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from transreid_ssl.models import ReIDViT
from transreid_ssl.models.gpu import has_triton
from transreid_ssl.training.objective import Objective
from transreid_ssl.training.settings import RunSettings

MEMORY = 0.8
"""Share of what the compiler would keep of a block for its backward pass; what is cheapest to
compute again is not kept. A DINO step of 256 images (ViT-S+ICS, H200) took 2 % longer and 20.0
instead of 26.5 GiB."""


def make_fast(
    objective: Objective, settings: RunSettings, device: torch.device, num_processes: int
) -> None:
    """Do what ``--run.compile`` asks for; call it before the objective is wrapped.

    Blocks of a ViT are compiled one for all, which takes seconds. On a GPU the networks that see
    one batch a step besides replay their passes as CUDA graphs, because launching a kernel takes
    longer than a kernel of a small batch: on one process and without accumulation, whose gradients
    would be written over one another. "auto" leaves other networks and other devices as they are.
    """
    on_gpu = device.type == "cuda"
    if not settings.compile or (settings.compile == "auto" and not (on_gpu and has_triton())):
        return
    from torch._functorch import config as compiler  # a second to import, for who compiles

    compiler.activation_memory_budget = MEMORY
    for network in objective.networks:
        blocks = [module for module in network.modules() if isinstance(module, ReIDViT)]
        for module in blocks:
            module.compile_blocks()
        if not blocks and settings.compile is True:
            network.compile()
    if on_gpu and num_processes == 1 and settings.accumulation == 1:
        for network in objective.replayed:
            replay(network)


def replay(network: nn.Module) -> None:
    """Let a network's training passes, forward and backward, be replayed as CUDA graphs.

    They are captured at the first batch; batches of another shape, and evaluation, run as before.
    """
    plain, graphs = network.forward, {}

    def forward(*arguments: Any, **options: Any) -> Any:
        leaves, structure = tree_flatten((arguments, options))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not (network.training and torch.is_grad_enabled()):
            return plain(*arguments, **options)
        key = tuple(
            (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves
        )
        if not graphs:
            graphs[structure, key] = _capture(network, plain, leaves, structure)
        graph = graphs.get((structure, key))
        return graph(*tensors) if graph else plain(*arguments, **options)

    network.forward = forward


class _Bound(nn.Module):
    """A network's forward pass as a function of its tensors alone, as graphs need it."""

    def __init__(
        self, network: nn.Module, plain: Callable[..., Any], leaves: list[Any], structure: Any
    ) -> None:
        super().__init__()
        self.network = network
        self.call = plain, leaves, structure

    def forward(self, *tensors: Tensor) -> Any:
        plain, leaves, structure = self.call
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        arguments, options = tree_unflatten(leaves, structure)
        return plain(*arguments, **options)


def _capture(
    network: nn.Module, plain: Callable[..., Any], leaves: list[Any], structure: Any
) -> Callable[..., Any]:
    """The graphs; nothing that a training step depends on is moved by capturing them."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    random = torch.cuda.get_rng_state()
    samples = tuple(leaf.clone() for leaf in leaves if isinstance(leaf, Tensor))
    # Gradients are summed on the stream that captured, which is waited for.
    if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    with contextlib.ExitStack() as stack:
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            # A cache of casts would keep tensors of the capture.
            stack.enter_context(torch.autocast("cuda", dtype, cache_enabled=False))
        bound = _Bound(network, plain, leaves, structure)
        graph = torch.cuda.make_graphed_callables(bound, samples, allow_unused_input=True)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    torch.cuda.set_rng_state(random)
    return graph
