"""Parameter groups, optimisers, gradient clipping and moving averages, over lists of tensors."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import Lars
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from transreid_ssl.errors import UserError
from transreid_ssl.models.gpu import has_triton
from transreid_ssl.training.settings import OptimizerSettings
from transreid_ssl.training.sharding import norms, own_parts


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Trainable parameters, grouped by whether they decay and by the scales of their learning rate.

    Biases and norms decay only with ``settings.decay_all``, and never with LARS, which takes those
    that decay for those that it scales (1708.03888). "peak_scale" multiplies the peak of the
    schedule of learning rates, "lr_scale" what it gives for a step; "decay" says whether the
    schedule of the weight decay applies.

    Raises:
        UserError: a layer-wise decay of a network whose layers are not known.
    """
    scales = layer_scales(model, settings.layer_decay)
    decay_all = settings.decay_all and settings.name != "lars"
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            bias = name.rpartition(".")[2] == "bias"
            decay = decay_all or not (bias or parameter.ndim <= 1)
            peak = settings.bias_lr_scale if bias else 1.0
            groups[decay, scales.get(name, 1.0), peak].append(parameter)
    return [
        {
            "params": parameters,
            "decay": decay,
            "weight_decay": settings.weight_decay if decay else 0.0,
            "lr_scale": scale,
            "peak_scale": peak,
        }
        for (decay, scale, peak), parameters in groups.items()
    ]


def layer_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """What the learning rate of each parameter of a backbone in ``model`` is multiplied by.

    The last block learns at ``layer_decay``, each block before it as much slower again, and the
    patch embedding slowest (BEiT, arXiv 2106.08254, appendix); what is not named, such as heads,
    necks and camera embeddings, at 1. The layers are those that timm's ``group_matcher`` tells.
    """
    if layer_decay == 1:
        return {}
    scales = {}
    for prefix, network in model.named_modules():
        if not hasattr(network, "group_matcher"):
            continue
        known = [re.compile(p) for p in _patterns(network.group_matcher(coarse=False))]
        layers = {
            name: layer
            for name, layer in group_parameters(
                network, network.group_matcher(coarse=False), reverse=True
            ).items()
            if any(pattern.match(name) for pattern in known)
        }
        last = max(layers.values())
        scales |= {
            f"{prefix}.{name}".lstrip("."): layer_decay ** (last + 1 - layer)
            for name, layer in layers.items()
        }
    if not scales:
        raise UserError(
            f"--optim.layer_decay {layer_decay:g}: the layers of this network are not known; give 1"
        )
    return scales


def _patterns(matcher: dict) -> list[str]:
    """The patterns of a ``group_matcher``, each alone or in a list of (pattern, suffix)."""
    return [
        pattern
        for found in matcher.values()
        for pattern in ([found] if isinstance(found, str) else [pair[0] for pair in found])
    ]


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, device: torch.device | None = None
) -> torch.optim.Optimizer:
    """The optimiser over ``parameter_groups``; the loop sets rates and decay before each step.

    On a GPU a step of PyTorch's own is a few operations. SGD has none that is fused: where a loss
    scaler leaves the first step out, or a weight has no gradient at first, its momentum would be
    what happened to lie in memory, or an error.

    Args:
        device: where it will run. On a GPU Adam is fused too; on a CPU, whose fused one ends in
            other last digits, its numbers are those that it always had.
    """
    groups, lr = parameter_groups(model, settings), settings.lr
    on_gpu = device is not None and device.type == "cuda"
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr, betas=settings.betas, fused=True)
    if settings.name == "adam":
        return torch.optim.Adam(groups, lr, betas=settings.betas, fused=on_gpu or None)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr, momentum=settings.momentum, foreach=True)
    # A layer whose weights do not decay is not scaled by its norm either.
    return Lars(groups, lr, momentum=settings.momentum, always_adapt=False)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float, each: bool) -> Tensor:
    """Scale gradients to norm ``limit``: every parameter by itself (``each``) or all as one vector.

    Returns the largest (``each``) or the global norm before clipping, on the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    found = norms(gradients)
    norm = found.max() if each else torch.linalg.vector_norm(found)
    if limit > 0:
        scales = (limit / ((found if each else norm) + 1e-6)).clamp(max=1.0)
        _scale(own_parts(gradients), scales)
    return norm


def _scale(tensors: list[Tensor], scales: Tensor) -> None:
    """In place, all by one number, scales (), or each by its own, (N,); one pass on a GPU."""
    if not scales.ndim:
        torch._foreach_mul_(tensors, scales)
    elif scales.is_cuda and all(map(_is_plain, tensors)) and has_triton():
        from transreid_ssl.training.scaling_kernels import scale_each  # Triton is not everywhere

        scale_each(tensors, scales)
    else:  # on a GPU that is a kernel for each of them
        torch._foreach_mul_(tensors, list(scales.unbind()))


def _is_plain(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and (
        tensor.is_contiguous()
        or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    )


@torch.no_grad()
def ema_update(slow: Sequence[Tensor], fast: Sequence[Tensor], momentum: float) -> None:
    """In place: slow = momentum · slow + (1 − momentum) · fast; sharded or not, both are alike."""
    get_ema_multi_avg_fn(momentum)(own_parts(slow), own_parts(fast), None)
