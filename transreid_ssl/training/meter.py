"""What a training loop logs, kept on the device until somebody reads it."""

from dataclasses import dataclass, field

import accelerate
import torch
from torch import Tensor


@dataclass
class Meter:
    """Sums of logged values, kept on the device until a logging step reads them.

    ``watched`` names the values that must be finite.
    """

    watched: tuple[str, ...] = ("loss",)
    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    finite: list[Tensor] = field(default_factory=list)

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's values, averaged over its micro-batches."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.finite.append(torch.stack([values[name].isfinite() for name in self.watched]).all())
        self.count += 1

    def note(self, name: str, value: float | Tensor) -> None:
        """Log a number of this process as it is; processes are averaged."""
        value = torch.as_tensor(value, dtype=torch.float32, device=self.sums["loss"].device)
        self.sums[name] = value * self.count

    def read(self, accelerator: accelerate.Accelerator) -> dict[str, float]:
        """Means over steps and processes; waits for the device."""
        names = sorted(self.sums)
        means = torch.stack([self.sums[name].float() / self.count for name in names])
        if accelerator.num_processes > 1:
            means = accelerator.reduce(means, "mean")
        return dict(zip(names, means.tolist()))

    def first_bad(self, accelerator: accelerate.Accelerator) -> int | None:
        """Which step since the last reset, from 0, was the first that was not finite on a process.

        None: all were finite. Waits for the device.
        """
        if not self.finite:
            return None
        finite = torch.stack(self.finite).float()
        if accelerator.num_processes > 1:
            finite = accelerator.reduce(finite, "mean")
        bad = (finite < 1.0).nonzero()
        return int(bad[0]) if len(bad) else None

    def reset(self) -> None:
        self.sums, self.count, self.finite = {}, 0, []
