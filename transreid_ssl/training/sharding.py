"""Weights, gradients and the optimiser's state in parts, one on each process (torch's FSDP2).

What a step computes stays the same but for the order of sums: a block's weights are put together
just before it runs, in the precision they are kept in, and its gradients are averaged and dealt out
again. Checkpoints and weights files hold whole tensors, whoever wrote them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import accelerate
import torch
import torch.distributed as dist
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from transreid_ssl.errors import UserError
from transreid_ssl.models import Backbone, PackedBlock, from_spec
from transreid_ssl.training.objective import Objective


def shard(objective: Objective, accelerator: accelerate.Accelerator) -> None:
    """Keep of every parameter one part on each process; call it before the optimiser is built.

    Blocks of ViTs and heads are put together one by one, and the rest, which is small, for a whole
    step: the stem, embeddings and norms.

    Raises:
        UserError: a precision that scales the loss.
    """
    if accelerator.scaler:
        raise UserError(
            "--run.shard true: --run.precision fp16 scales the loss, which has not been tried with "
            "sharded gradients; give bf16, or leave --run.shard out"
        )
    objective.to(accelerator.device)
    with torch.no_grad():  # all begin as the main process does
        broadcast([*objective.parameters(), *objective.buffers()])
    device = accelerator.device.type
    mesh = init_device_mesh(device, (accelerator.num_processes,))
    heads = [getattr(network, "head", nn.Identity()) for network in objective.networks]
    blocks = [module for module in objective.modules() if isinstance(module, PackedBlock)]
    for unit in [*blocks, *(head for head in heads if list(head.parameters())), objective]:
        fully_shard(unit, mesh=mesh)
        if device == "cpu":  # gloo adds, and does not average
            unit.set_force_sum_reduction_for_comms(True)
    for block in blocks:
        register_fsdp_forward_method(block, PackedBlock.run.__name__)


def is_sharded(network: nn.Module) -> bool:
    """Whether ``shard`` was called for this objective."""
    return isinstance(network, FSDPModule)


@torch.no_grad()
def own_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process has of each tensor, to be read or changed in place."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of each tensor, (N,) float32 on their device.

    Of sharded ones it is that of the whole, for which all processes call this together.
    """
    found = torch.stack([norm.float() for norm in torch._foreach_norm(own_parts(tensors))])
    if any(isinstance(tensor, DTensor) for tensor in tensors):
        found.square_()
        dist.all_reduce(found)
        found.sqrt_()
    return found


def whole(state: Any, put: Callable[[Tensor], Any] = lambda tensor: tensor) -> Any:
    """Nested dictionaries and lists with their sharded tensors made whole, one after the other.

    All processes call this together.

    Args:
        put: Where a tensor that was made whole goes, such as to the CPU, or to nothing.
    """
    if isinstance(state, DTensor):
        return put(state.full_tensor())
    if isinstance(state, dict):
        return {name: whole(part, put) for name, part in state.items()}
    if isinstance(state, list):
        return [whole(part, put) for part in state]
    return state


def dealt_out(value: Any, like: Any) -> Any:
    """A whole tensor that every process has, sharded as ``like`` is, if it is; else the value."""
    if not (isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape):
        return value
    # Each takes its own part: no process has to send it.
    return distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def whole_network(network: Backbone) -> Backbone:
    """A backbone with its ``spec`` as it is, or a whole copy of one in a sharded objective.

    For evaluation and for weights files. All processes call this together.
    """
    if not any(isinstance(parameter, DTensor) for parameter in network.parameters()):
        return network
    with torch.device("meta"):  # its weights are about to be replaced
        copy = from_spec(network.spec)
    copy.load_state_dict(whole(network.state_dict()), assign=True)
    return copy
