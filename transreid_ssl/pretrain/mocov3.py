"""MoCo v3: momentum contrast within a large batch, for vision transformers (2104.02057).

Keys of the other images of the batch are the negatives: there is no queue. The patches' projection
keeps its random weights, which the paper found to be what makes transformers train steadily, and
positions are fixed waves.
"""

import torch.distributed as dist
from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.models import ReIDViT, ViewBackbone, draw_xavier, fix_sincos_positions
from transreid_ssl.pretrain.contrast import gather, info_nce
from transreid_ssl.pretrain.heads import mlp_head
from transreid_ssl.pretrain.networks import MomentumPair
from transreid_ssl.pretrain.settings import MoCoV3Config


class MoCoV3(MomentumPair):
    """Query encoder with a prediction head, and key encoder.

    The negatives are gathered over processes, so that their number does not change a step. They
    are those of one micro-batch: accumulation saves memory and takes negatives away.

    Args:
        backbone, key_backbone: See ``MomentumPair``.
        config: Settings.
        fresh: The network's weights are new. Initial weights are not drawn anew, nor are their
            positions replaced; what is to be frozen is.

    Raises:
        UserError: settings for patches of a network that has none, or for plain ViTs of another.
    """

    name = "mocov3"
    counts_step = True  # the authors move the key encoder as they begin the step after

    def __init__(
        self,
        backbone: ViewBackbone,
        key_backbone: ViewBackbone,
        config: MoCoV3Config,
        fresh: bool = True,
    ) -> None:
        _prepare(backbone, config, fresh)
        norm = {"norm": config.head_norm, "last_norm": config.head_norm}
        width, hidden, dim = backbone.spec.embed_dim, config.hidden_dim, config.dim
        super().__init__(
            backbone, key_backbone, mlp_head(width, hidden, dim, num_layers=3, **norm),
            predictor=mlp_head(dim, hidden, dim, num_layers=2, **norm),
            momentum=config.momentum, final_momentum=1.0,
        )  # fmt: skip
        self.config = config

    def contrast(
        self, queries: Tensor, keys: Tensor, view: int, tracks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Against the keys of the whole batch; times 2T, so that the gradient's scale does not
        depend on the temperature T (2104.02057, algorithm 1)."""
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        temperature = self.config.temperature
        loss, accuracy = info_nce(
            queries, gather(keys[None]), temperature, offset=rank * len(queries),
            tracks=tracks, key_tracks=None if tracks is None else gather(tracks[None]),
            moments=self.moments,
        )  # fmt: skip
        return 2 * temperature * loss, accuracy


def _prepare(backbone: ViewBackbone, config: MoCoV3Config, fresh: bool) -> None:
    """Draw the network's weights where they are new, and freeze what does not learn."""
    drawn, fixed = config.initialisation == "xavier", config.positions == "sincos"
    spec = backbone.spec
    if not isinstance(backbone, ReIDViT):
        if config.freeze_patches or drawn or fixed:
            raise UserError(
                f"{spec.name} has no patches: give --mocov3.freeze_patches false, "
                "--mocov3.initialisation default and --mocov3.positions learned"
            )
        return
    if (drawn or fixed) and (spec.jpm or getattr(spec.architecture, "part_tokens", 0)):
        what = "jigsaw patches" if spec.jpm else "part tokens"
        raise UserError(
            f"{spec.name} with {what}: MoCo v3's start is one for plain ViTs; give "
            "--mocov3.initialisation default and --mocov3.positions learned"
        )
    if drawn and fresh:
        draw_xavier(backbone)
    if fixed and fresh:
        fix_sincos_positions(backbone)
    backbone.pos_embed.requires_grad_(not fixed)
    backbone.patch_embed.requires_grad_(not config.freeze_patches)
