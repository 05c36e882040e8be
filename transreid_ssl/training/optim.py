"""Parameter groups, gradient clipping and moving averages, each as one fused pass over lists."""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from timm.optim import Lars
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from transreid_ssl.errors import UserError
from transreid_ssl.training.plan import Plan
from transreid_ssl.training.schedules import warmup_cosine
from transreid_ssl.training.settings import OptimizerSettings, RunSettings


def decay_groups(model: nn.Module) -> list[dict]:
    """Trainable parameters in two groups: with weight decay; biases and norms without."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for name, p in trainable if p.ndim <= 1 or name.endswith(".bias")]
    kept = {id(p) for p in plain}
    decayed = [p for _, p in trainable if id(p) not in kept]
    return [
        {"params": decayed, "decay": True},
        {"params": plain, "decay": False, "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser over ``decay_groups``; learning rate and decay are set before each step."""
    groups = decay_groups(model)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, weight_decay=0.0, fused=True)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum)
    # A layer whose weights do not decay is not scaled by its norm either (LARS, 1708.03888).
    return Lars(groups, lr=0.0, momentum=settings.momentum, always_adapt=False)


def peak_lr(settings: OptimizerSettings, batch_size: int) -> float:
    """The learning rate after warm-up, by the linear scaling rule."""
    return settings.lr * (batch_size / settings.lr_batch if settings.lr_batch else 1.0)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float, each: bool) -> Tensor:
    """Scale gradients to norm ``limit``: every parameter by itself (``each``) or all as one vector.

    Returns the largest (``each``) or the global norm before clipping, on the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = torch.stack(torch._foreach_norm(gradients)).float()
    norm = norms.max() if each else torch.linalg.vector_norm(norms)
    if limit > 0:
        scales = (limit / ((norms if each else norm.expand_as(norms)) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, list(scales.unbind()))
    return norm


@torch.no_grad()
def move_towards(slow: Sequence[Tensor], fast: Sequence[Tensor], momentum: float) -> None:
    """In place: slow = momentum · slow + (1 − momentum) · fast."""
    get_ema_multi_avg_fn(momentum)(slow, fast, None)


def pretraining_plan(settings: OptimizerSettings, run: RunSettings, num_images: int) -> Plan:
    """DINO's schedules over a run: learning rate with warm-up, rising weight decay.

    Raises:
        UserError: there are fewer images than one batch takes.
    """
    steps = num_images // run.batch_size
    if steps == 0:
        raise UserError(
            f"{num_images} images are fewer than one batch of {run.batch_size}: "
            "lower --run.batch_size or give a larger pool"
        )
    total, peak = steps * run.epochs, peak_lr(settings, run.batch_size)
    lr = partial(
        warmup_cosine,
        peak=peak,
        end=settings.min_lr,
        total_steps=total,
        warmup_steps=round(settings.warmup_epochs * steps),
    )
    decay = partial(
        warmup_cosine,
        peak=settings.weight_decay,
        end=settings.weight_decay_end,
        total_steps=total,
    )
    return Plan(steps, run.epochs, lr, decay, settings.clip, settings.clip_each)
