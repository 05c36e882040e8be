"""Training on pseudo labels: cluster all images, contrast them with a memory of the clusters.

Cluster Contrast (Dai et al., arXiv 2103.11568) with the settings that TransReID-SSL (arXiv
2111.12084) adapts its transformers with, without labels (USL) or to another domain (UDA).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from transreid_ssl.finetune.memory import ClusterMemory
from transreid_ssl.finetune.settings import ClusterSettings
from transreid_ssl.models import Backbone
from transreid_ssl.training import Objective, feature_spread


def watch_spread(backbone: Backbone, note: Callable[[Tensor], None]) -> RemovableHandle:
    """Call ``note`` with the spread of each batch's features as they enter the neck.

    Behind it they are always spread: a batch norm scales up whatever is left of a collapsed
    network. Without a neck, those at the end are looked at.
    """
    neck = getattr(backbone, "bottleneck", None)
    if neck is None:
        return backbone.register_forward_hook(lambda _, given, out: note(feature_spread(out)))
    return neck.register_forward_pre_hook(lambda _, given: note(feature_spread(given[0])))


class ClusterObjective(Objective):
    """A backbone and the memory of the clusters of the epoch.

    The feature that is clustered, contrasted and evaluated is the backbone's own output, which
    ends in a batch norm (the BN neck), at unit length. The epoch's pseudo labels and memory are
    part of the state, so that a resumed epoch goes on with them.

    Args:
        backbone: With ``.spec``; maps uint8 (B, 3, H, W) to (B, D).
        config: Settings of the memory.
    """

    name = "usl"

    def __init__(self, backbone: Backbone, config: ClusterSettings | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.config: ClusterSettings = config or ClusterSettings()
        self.epoch: int = -1
        self.labels: np.ndarray = np.empty(0, np.int64)
        # Not a registered module: its size changes, and no process has to send it to another one.
        self._memory: list[ClusterMemory] = []
        self._spread = torch.zeros(())
        self._watch: RemovableHandle | None = None

    def _note_spread(self, spread: Tensor) -> None:
        self._spread = spread

    @property
    def memory(self) -> ClusterMemory:
        """The memory of this epoch's clusters."""
        return self._memory[0]

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    def begin_epoch(self, epoch: int, labels: np.ndarray, centres: Tensor) -> None:
        """Train on these pseudo labels from here on.

        Args:
            epoch: 0-based.
            labels: int64 (N,), -1 for images left out.
            centres: float (C, D), the memory's first vectors.
        """
        config = self.config
        memory = ClusterMemory(centres, config.temperature, config.momentum, config.hard)
        self.epoch, self.labels = epoch, labels
        self._memory = [memory.to(self.device)]

    def forward(self, batch: dict[str, Any], epoch: int = 0) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            batch: "images" uint8 (B, 3, H, W), "identities" int64 (B,), which are clusters here,
                and, for a backbone that embeds cameras, "cameras" int64 (B,).
            epoch: Not used.

        Returns:
            0-d tensors: "loss" and "feature_spread" (before the neck).
        """
        if self._watch is None:  # only now: the loop has put other norms in the place of the first
            self._watch = watch_spread(self.backbone, self._note_spread)
        features = self.backbone(batch["images"], batch.get("cameras"))
        loss = self.memory(features, batch["identities"])
        return {"loss": loss, "feature_spread": self._spread}

    def forget(self) -> None:
        """Drop what the step has noted; the memory is no registered module."""
        super().forget()
        self.memory.forget()

    def after_step(self, progress: float) -> None:
        """Move the memory to the images of the step."""
        self.memory.update()

    def train(self, mode: bool = True) -> "ClusterObjective":
        super().train(mode)
        if self.config.frozen_norms:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """The epoch's pseudo labels and memory."""
        vectors = self.memory.features if self._memory else torch.empty(0)
        return {"epoch": self.epoch, "labels": torch.from_numpy(self.labels), "memory": vectors}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["epoch"] >= 0:
            self.begin_epoch(state["epoch"], state["labels"].numpy(), state["memory"])
            self.memory.features.copy_(state["memory"])  # scaled anew it would change the last bits
