"""What a training loop logs, kept on the device until somebody reads it."""

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor


@dataclass
class Meter:
    """Sums of logged values, kept on the device until a logging step reads them.

    ``watched`` names the values that must be finite.
    """

    watched: tuple[str, ...] = ("loss",)
    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    finite: Tensor | None = None

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's values, averaged over its micro-batches."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        ok = torch.stack([torch.isfinite(values[name]) for name in self.watched]).all()
        self.finite = ok if self.finite is None else self.finite & ok
        self.count += 1

    def note(self, name: str, value: float) -> None:
        """Log a number of this process as it is; processes are averaged."""
        device = self.sums["loss"].device
        self.sums[name] = torch.tensor(value * self.count, dtype=torch.float32, device=device)

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over steps and processes, and whether all was "finite"; waits for the device."""
        names = sorted(self.sums)
        means = torch.stack([self.sums[name].float() / self.count for name in names])
        finite = self.finite.float()
        if accelerator.num_processes > 1:
            means = accelerator.reduce(means, "mean")
            finite = accelerator.reduce(finite, "mean")
        values = dict(zip(names, means.tolist()))
        values["finite"] = finite.item() == 1.0
        return values

    def reset(self) -> None:
        self.sums, self.count, self.finite = {}, 0, None
