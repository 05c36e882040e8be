"""MoCo v2: momentum contrast against a queue (He et al., 1911.05722; Chen et al., 2003.04297).

With the settings that LUPerson found best for persons (Fu et al., 2012.03753). A query, one view of
an image, has to find the key of the other view among those of many other images.
"""

import torch
from torch import Tensor

from transreid_ssl.models import ViewBackbone
from transreid_ssl.pretrain.contrast import KeyQueue, info_nce
from transreid_ssl.pretrain.heads import mlp_head
from transreid_ssl.pretrain.networks import MomentumPair
from transreid_ssl.pretrain.settings import MoCoConfig


class MoCo(MomentumPair):
    """Query encoder, key encoder and queue.

    Args:
        backbone, key_backbone: See ``MomentumPair``.
        config: Settings.
    """

    name = "moco"

    queue: KeyQueue

    def __init__(
        self, backbone: ViewBackbone, key_backbone: ViewBackbone, config: MoCoConfig
    ) -> None:
        width = backbone.spec.embed_dim
        head = mlp_head(width, config.hidden_dim or width, config.dim, norm=config.head_norm)
        super().__init__(
            backbone, key_backbone, head,
            momentum=config.momentum, final_momentum=config.momentum, symmetric=config.symmetric,
        )  # fmt: skip
        self.config = config
        self.queue = KeyQueue(config.dim, config.queue_size)

    def contrast(
        self, queries: Tensor, keys: Tensor, view: int, tracks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Against the queue, whichever view the keys are of."""
        return info_nce(
            queries, keys, self.config.temperature,
            queue=self.queue.keys, tracks=tracks, key_tracks=self.queue.tracks,
            moments=self.moments,
        )  # fmt: skip

    def remember(self, keys: dict[int, Tensor], tracks: Tensor | None = None) -> None:
        """Keys of both views, where there are both, enter image by image."""
        if tracks is not None:
            tracks = tracks.repeat_interleave(len(keys))
        self.queue.remember(torch.stack(list(keys.values()), dim=1).flatten(0, 1), tracks)

    def after_step(self, progress: float) -> None:
        """Move the key encoder, then let the step's keys into the queue."""
        super().after_step(progress)
        self.queue.enqueue()
