"""MoBY: MoCo's queue and key encoder with BYOL's prediction head and both directions (2105.04553).

The query encoder drops paths and the key encoder does not. Each view has a queue of its own.
"""

from torch import Tensor, nn

from transreid_ssl.models import ViewBackbone
from transreid_ssl.pretrain.contrast import KeyQueue, info_nce
from transreid_ssl.pretrain.heads import mlp_head
from transreid_ssl.pretrain.networks import MomentumPair
from transreid_ssl.pretrain.settings import MoBYConfig


class MoBY(MomentumPair):
    """Query encoder with a prediction head, key encoder, and a queue for each view.

    Args:
        backbone, key_backbone: See ``MomentumPair``.
        config: Settings.
    """

    name = "moby"
    counts_step = True  # the authors move the key encoder as they begin the step after

    queues: nn.ModuleList

    def __init__(
        self, backbone: ViewBackbone, key_backbone: ViewBackbone, config: MoBYConfig
    ) -> None:
        width, hidden, dim = backbone.spec.embed_dim, config.hidden_dim, config.dim
        super().__init__(
            backbone, key_backbone, mlp_head(width, hidden, dim, norm=config.head_norm),
            predictor=mlp_head(dim, hidden, dim, norm=config.head_norm),
            momentum=config.momentum, final_momentum=1.0,
        )  # fmt: skip
        self.config = config
        self.queues = nn.ModuleList(KeyQueue(dim, config.queue_size) for _ in range(2))

    def contrast(
        self, queries: Tensor, keys: Tensor, view: int, tracks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Against earlier keys of the same view."""
        queue = self.queues[view]
        return info_nce(
            queries, keys, self.config.temperature,
            queue=queue.keys, tracks=tracks, key_tracks=queue.tracks, moments=self.moments,
        )  # fmt: skip

    def remember(self, keys: dict[int, Tensor], tracks: Tensor | None = None) -> None:
        """Keys of each view wait for its queue."""
        for view, of_view in keys.items():
            self.queues[view].remember(of_view, tracks)

    def after_step(self, progress: float) -> None:
        """Move the key encoder, then let the step's keys into the queues."""
        super().after_step(progress)
        for queue in self.queues:
            queue.enqueue()
