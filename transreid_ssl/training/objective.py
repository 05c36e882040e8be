"""What a method is to the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.models import Backbone, BackboneSpec
from transreid_ssl.training.phases import Phase


class Objective(nn.Module, ABC):
    """A method's networks and its loss in one module: the base of every objective.

    Autocast, distributed training and checkpoints thus treat the fast and the slow network alike. A
    subclass gives ``name``, ``backbone`` and ``forward``; what happens around the optimiser's step
    where something does, and ``networks`` where more than the backbone is worth compiling.
    """

    name: str
    """What the header of the weights calls the method."""
    counts_step: bool = False
    """Whether the progress that ``after_step`` is told counts the step that was just made."""
    backbone: Backbone
    """The network that is probed, kept and saved, with its ``spec``: a submodule or a property."""

    @abstractmethod
    def forward(self, batch: dict[str, Any], epoch: int) -> dict[str, Tensor]:
        """The loss of a batch: 0-d tensors on the device, "loss" and whatever is to be logged."""

    @property
    def backbones(self) -> dict[str, Backbone]:
        """The backbones that a checkpoint can be read for: "kept" and others by their names."""
        return {"kept": self.backbone}

    @property
    def networks(self) -> list[nn.Module]:
        """What torch.compile is worth using on."""
        return [self.backbone]

    @property
    def phases(self) -> Sequence[Phase]:
        """What it begins with and is to end, by its settings."""
        return ()

    @property
    def spec(self) -> BackboneSpec:
        """The backbone's."""
        return self.backbone.spec

    def prefixes(self) -> dict[str, str]:
        """Where in this module's state the weights of each of ``backbones`` are."""
        names = {module: f"{name}." for name, module in self.named_modules()}
        return {which: names[network] for which, network in self.backbones.items()}

    def forget(self) -> None:
        """Drop what the forward passes of a step have noted for ``after_step``: it is not made."""
        for part in self.modules():
            if part is not self and hasattr(part, "forget"):
                part.forget()

    def doubt_mates(self) -> None:
        """From now on pairs of frames teach by how surely they show one person; here: refuse.

        Raises:
            UserError: it is not made for this objective.
        """
        raise UserError(f"--views.doubt_mates is not made for {self.name}: leave it out")

    def weigh_negatives(self, moments: nn.Module) -> None:
        """From now on negatives that ``moments`` is certain of have its weight; here: refuse.

        Raises:
            UserError: this objective has no negatives.
        """
        raise UserError(
            f"--views.certain_negatives: {self.name} has no negatives to weigh; leave it out, or "
            "take moco, mocov3 or moby"
        )

    def before_step(self, epoch: int) -> None:
        """Called with gradients in place, after clipping."""

    def after_step(self, progress: float) -> None:
        """Called after the optimiser's step; ``progress`` in [0, 1]: the share of the run that was
        done before this step, or with ``counts_step`` after it."""
