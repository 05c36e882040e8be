"""How near a training comes to what its device computes: to the rate of its matrix products."""

import copy
import logging
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from transreid_ssl.training.objective import Objective

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ROUNDS = 10


class Ceiling:
    """The share of a device's rate of matrix products that a process reaches ("MFU").

    ``note`` remembers what a batch looks like; ``measure`` then counts what a step of such batches
    computes, without computing it, and times products of large matrices.
    """

    def __init__(self, device: torch.device, precision: str, accumulation: int) -> None:
        self.device: torch.device = device
        self.dtype: torch.dtype = PRECISIONS[precision]
        self.accumulation = accumulation
        self.step_flops: float | None = None
        """Floating-point operations of a step; None: not counted."""
        self.rate: float = 0.0
        """Those of a second of matrix products."""
        self._batch: dict[str, Any] | None = None

    def note(self, batch: dict[str, Any]) -> None:
        """Remember the shapes of the first batch."""
        if self._batch is None:
            self._batch = tree_map(_without_values, batch)

    def measure(self, objective: Objective, epoch: int) -> None:
        """Count and time. The objective may draw random numbers; it is not changed.

        Where an objective cannot be followed without values, or memory does not suffice for the
        matrices, the log says so at its level "debug", and there is no share.
        """
        if self._batch is None:
            raise ValueError("note a batch first")
        trace = logging.getLogger("torch._subclasses.fake_tensor")  # of errors: a screenful
        trace.disabled = True
        try:
            flops = count_flops(objective, self._batch, epoch)
            self.rate = product_rate(self.device, self.dtype)
        except Exception as error:  # of whatever an objective does with values; or memory is full
            logging.getLogger(__name__).debug("the arithmetic is not counted: %r", error)
            return
        finally:
            trace.disabled = False
        self.step_flops = flops * self.accumulation

    def share(self, seconds: float) -> float | None:
        """That of steps of so many seconds, 0 to 1; None where it was not measured."""
        return self.step_flops / seconds / self.rate if self.step_flops else None


def count_flops(objective: Objective, batch: dict[str, Any], epoch: int) -> float:
    """Floating-point operations of the matrix products and convolutions for a batch's gradients.

    Two a multiplication, forward and backward, counted on tensors without values: nothing is
    computed, and no memory is taken. Of ``batch`` shapes and dtypes matter.
    """
    # Tensors of this kind take half a second to import, for who counts.
    from torch._subclasses.fake_tensor import FakeTensorMode

    stance = torch.compiler.set_stance("force_eager")
    with stance, FakeTensorMode(allow_non_fake_inputs=True):
        double = _likeness(objective)
        # Of the class, as compilers and Accelerate put their own over the object's.
        forward = type(objective).forward
        with FlopCounterMode(display=False) as counter:
            forward(double, tree_map(_on_cpu, batch), epoch)["loss"].backward()
    return float(counter.get_total_flops())


class _EmptyCopies(TorchFunctionMode):
    """Within it tensors are copied without their values, and to the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        if func is Tensor.__deepcopy__:
            return _on_cpu(args[0])
        return func(*args, **(kwargs or {}))


def _likeness(objective: Objective) -> Objective:
    """A copy with tensors that have no values; what is hooked to the original does not see it."""
    parameters = {id(parameter): _on_cpu(parameter) for parameter in objective.parameters()}
    with _EmptyCopies():
        double = copy.deepcopy(objective, parameters)
    for module in double.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return double


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of the product of two large matrices; the best of ten."""
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 1024
    drawn = torch.Generator(device).manual_seed(0)
    a, b = torch.randn((2, size, size), generator=drawn, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(_ROUNDS):
        if on_gpu:
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        a @ b
        if on_gpu:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def _without_values(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def _on_cpu(value: Any) -> Any:
    """An empty tensor like one, a parameter like a parameter; other values as they are."""
    if not isinstance(value, Tensor):
        return value
    empty = torch.empty(value.shape, dtype=value.dtype, device="cpu")
    return nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty
