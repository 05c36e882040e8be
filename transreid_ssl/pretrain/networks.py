"""What all objectives are built of: a backbone with a head, and a slow copy that follows it."""

import copy
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.errors import UserError
from transreid_ssl.models import ViewBackbone
from transreid_ssl.pretrain.moments import Moments
from transreid_ssl.pretrain.trust import MateTrust, weigh_gradient
from transreid_ssl.training.health import feature_spread
from transreid_ssl.training.objective import Objective
from transreid_ssl.training.optim import ema_update
from transreid_ssl.training.schedules import cosine


class ViewNetwork(nn.Module):
    """A backbone and a head, which crops of all sizes pass together."""

    backbone: ViewBackbone
    head: nn.Module

    def __init__(self, backbone: ViewBackbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, groups: list[Tensor], with_map: bool = False) -> tuple[Tensor, ...]:
        """Features (V·B, D) and logits (V·B, K) of crop groups, each (v·B, 3, height, width);
        ``with_map`` adds the feature map of the first group, (v·B, D, h, w)."""
        if not with_map:
            features = self.backbone.forward_groups(groups)
            return features, self.head(features)
        features, first_map = self.backbone.forward_with_map(groups[0])
        if groups[1:]:
            features = torch.cat([features, self.backbone.forward_groups(groups[1:])])
        return features, self.head(features), first_map


class PatchNetwork(ViewNetwork):
    """A view network whose patches pass its head too, or one of their own."""

    def __init__(
        self, backbone: ViewBackbone, head: nn.Module, patch_head: nn.Module | None = None
    ) -> None:
        super().__init__(backbone, head)
        self.patch_head = patch_head

    def with_patches(
        self, groups: list[Tensor], chosen: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``forward``, and the logits (M, K) of patches of the first group; ``chosen`` and
        ``hidden`` as ``ReIDViT.forward_groups_with_patches`` takes them."""
        features, patches = self.backbone.forward_groups_with_patches(groups, chosen, hidden)
        if self.patch_head is not None:
            return features, self.head(features), self.patch_head(patches)
        # Together: a head whose weights are sharded is put together once.
        logits = self.head(torch.cat([features, patches]))
        return features, *logits.split([len(features), len(patches)])


class MomentumPair(Objective):
    """A query encoder that learns and a key encoder that follows it.

    The base of MoCo, MoCo v3 and MoBY: an encoder is a backbone with a projection head; queries may
    pass a prediction head besides. Subclasses give ``contrast`` and the class attribute ``name``.

    The key encoder is in training mode, as in all three papers: its batch norms use the statistics
    of the batch of keys, which is a forward pass of its own. On several GPUs the loop makes them
    synchronised, as MoCo v3 and MoBY do and where MoCo v2 shuffles images between GPUs instead:
    with statistics of the whole global batch no key tells by its statistics which process it is
    of, and no images have to travel.

    Args:
        backbone: The query encoder's network, which carries ``spec``.
        key_backbone: The same network without stochastic depth; takes the other's weights.
        head: The query encoder's projection head; the key encoder has a copy.
        predictor: What only queries pass; None: nothing.
        momentum: Of the key encoder, at the start.
        final_momentum: At the end, along a cosine.
        symmetric: Each view is a query once and a key once; otherwise the first view is the query.
    """

    encoder_q: ViewNetwork
    encoder_k: ViewNetwork
    predictor: nn.Module
    momentum: tuple[float, float]
    query_views: tuple[int, ...]

    def __init__(
        self,
        backbone: ViewBackbone,
        key_backbone: ViewBackbone,
        head: nn.Module,
        *,
        predictor: nn.Module | None = None,
        momentum: float,
        final_momentum: float,
        symmetric: bool = True,
    ) -> None:
        super().__init__()
        self.encoder_q = ViewNetwork(backbone, head)
        self.encoder_k = ViewNetwork(key_backbone, copy.deepcopy(head))
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)
        self.predictor = nn.Identity() if predictor is None else predictor
        self.momentum = (momentum, final_momentum)
        self.query_views = (0, 1) if symmetric else (0,)  # views that are queries
        self.trust: MateTrust | None = None
        self.moments: Moments | None = None

    def weigh_negatives(self, moments: Moments) -> None:
        """From now on keys of people who were seen beside the query's count more, or less."""
        self.moments = moments

    def doubt_mates(self) -> None:
        """From now on pairs of frames teach by how surely they show one person (``MateTrust``)."""
        self.trust = MateTrust(self.config.dim)

    @property
    def backbone(self) -> ViewBackbone:
        """The query encoder's, the one that learns, as published."""
        return self.encoder_q.backbone

    @property
    def networks(self) -> list[nn.Module]:
        return [self.encoder_q, self.encoder_k]

    def forward(self, batch: dict[str, Any], epoch: int) -> dict[str, Tensor]:
        """Loss of a batch of ``views``: one group of two large crops an image, crop-major; with
        ``tracks``, int64 (B,), keys of an image's own track are none of its negatives."""
        views = self.two_views(batch)
        keys = self.keys(views)
        queries = {view: self.query(views[view]) for view in self.query_views}
        return self.compare(queries, keys, batch.get("tracks"))

    def compare(
        self,
        encoded: dict[int, tuple[Tensor, ...]],
        keys: dict[int, Tensor],
        tracks: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The values of a batch from what ``query`` gave, by view, and from ``keys``."""
        queries, trusted = {view: encoded[view][1] for view in self.query_views}, {}
        if self.trust is not None:
            trust = {v: self.trust(queries[v], keys[1 - v], tracks) for v in queries}
            queries = {v: weigh_gradient(queries[v], trust[v]) for v in queries}
            trusted["mate_trust"] = torch.stack(list(trust.values())).mean()
        results = [self.contrast(queries[v], keys[1 - v], 1 - v, tracks) for v in queries]
        if self.training:
            self.remember(keys, tracks)
        losses, accuracies = (torch.stack(values) for values in zip(*results))
        return {
            "loss": losses.sum(),
            "contrast_accuracy": accuracies.mean(),
            "feature_spread": feature_spread(encoded[0][0]),
            **trusted,
        }

    @abstractmethod
    def contrast(
        self, queries: Tensor, keys: Tensor, view: int, tracks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Loss of queries (B, K) against their keys (B, K), which are of the view numbered
        ``view``, and the share of queries whose own key ranks first; ``tracks`` of the images are
        int64 (B,) or not known."""

    def remember(self, keys: dict[int, Tensor], tracks: Tensor | None = None) -> None:
        """Take note of a training batch's keys, by the number of their view, and its tracks."""

    def two_views(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The large views of a batch's ``views``, each uint8 (B, 3, H, W).

        Raises:
            UserError: in training, one image for batch norms that need two.
        """
        first, second = batch["views"][0].chunk(2)
        if len(first) == 1 and self.training and self._has_vector_norms():
            raise UserError(
                "one image is left to each process and micro-batch, and batch norm in the heads "
                "needs two: raise --run.batch_size or lower --run.accumulation"
            )
        return first, second

    def _has_vector_norms(self) -> bool:
        """Whether batch norms of this process alone see one vector an image."""
        return any(isinstance(module, nn.BatchNorm1d) for module in self.modules())

    def query(self, images: Tensor, with_map: bool = False) -> tuple[Tensor, ...]:
        """Features (B, D) and queries of length 1, float32 (B, K), of images (B, 3, H, W);
        ``with_map`` adds the feature map (B, D, h, w)."""
        features, projected, *maps = self.encoder_q([images], with_map=with_map)
        return features, unit(self.predictor(projected)), *maps

    def keys(self, views: tuple[Tensor, Tensor]) -> dict[int, Tensor]:
        """The keys that the queries of a batch are compared with, by the number of their view."""
        return {1 - view: self.key(views[1 - view]) for view in self.query_views}

    @torch.no_grad()
    def key(self, images: Tensor) -> Tensor:
        """Keys of length 1, float32 (B, K), of images (B, 3, H, W)."""
        return unit(self.encoder_k([images])[1])

    def after_step(self, progress: float) -> None:
        """Move the key encoder towards the query encoder."""
        if self.trust is not None:
            self.trust.update(progress)
        slow, fast = list(self.encoder_k.parameters()), list(self.encoder_q.parameters())
        ema_update(slow, fast, cosine(progress, *self.momentum))


def unit(vectors: Tensor) -> Tensor:
    """Rows of length 1, in float32 whatever came in."""
    return F.normalize(vectors.float(), dim=-1)
