"""Ctrl-C, SIGTERM and the end of the launcher end a run after its step, on all its processes."""

import os
import signal
from types import FrameType

import accelerate
import torch

_LAUNCHED = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}
"""What `accelerate launch` and `torchrun` set for the processes that they start."""


class StopRequest:
    """A context in which the first signal is a request, and a second one stops at once."""

    def __init__(self, accelerator: accelerate.Accelerator) -> None:
        self.accelerator = accelerator
        self.asked: bool = False
        self.every: int = 1
        # A launcher that is killed takes nobody along: the training would go on without a master,
        # and the next one would find its run folder in use.
        self._launcher = os.getppid() if _LAUNCHED & os.environ.keys() else None

    def __enter__(self) -> "StopRequest":
        # What a shell made us ignore (a job in the background ignores Ctrl-C) stays ignored.
        heeded = [
            n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN
        ]
        self._previous = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def pace(self, step_seconds: float, at_most: int) -> None:
        """Let several processes agree about every five seconds: launchers kill after thirty.

        ``step_seconds`` must be the same number on every process.
        """
        self.every = max(1, min(at_most, int(5 / max(step_seconds, 1e-3))))

    def agreed(self, step: int) -> bool:
        """Whether to stop after ``step``: if any process was asked, all do, so that none hangs."""
        asked = self.asked or (self._launcher is not None and os.getppid() != self._launcher)
        if self.accelerator.num_processes == 1:
            return asked
        if step % self.every:
            return False
        flag = torch.tensor(float(asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)
