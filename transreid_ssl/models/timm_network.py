"""Any network of timm as a backbone: small ones for trackers, above all."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.models.checkpointing import move_once
from transreid_ssl.models.checkpoints import Checkpoint, bare_name
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.statistics import normalise
from transreid_ssl.models.timm_build import as_map, build_timm
from transreid_ssl.models.timm_config import TimmConfig

TIMM_WEIGHTS = "weights of timm"


class TimmNetwork(TimmConfig, nn.Module):
    """A network of timm, without its classifier: its feature is what timm pools of its last map.

    Called with images (B, 3, H, W), uint8 or float if normalised already; gives (B, D). ``spec``
    tells how it is built; ``cameras`` are taken, so that all backbones are called alike, and not
    used. Its weights have timm's names behind ``net.``.
    """

    spec: BackboneSpec
    num_classes: int
    grad_checkpointing: bool
    net: nn.Module

    def __init__(
        self, spec: BackboneSpec, drop_path_rate: float = 0.0, num_classes: int = 0,
        in_chans: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_classes or in_chans != 3:
            raise UserError(f"{spec.name}: has no classifier, and takes RGB; leave these out")
        self.spec, self.num_classes, self.grad_checkpointing = spec, 0, False
        self.net = build_timm(spec.name, spec.img_size, drop_path_rate)
        if spec.feature_norm:
            self.bottleneck: nn.BatchNorm1d = nn.BatchNorm1d(spec.own_dim)
            self.bottleneck.bias.requires_grad_(False)

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        return self._head(self._last(images))

    def forward_groups(self, groups: Sequence[Tensor]) -> Tensor:
        """Features (B, D) of images of several sizes, one group after the other."""
        return torch.cat([self(images) for images in groups])

    def forward_with_map(
        self, images: Tensor, cameras: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The feature (B, D) and, of the same pass, the last map (B, D', h, w)."""
        last = self._last(images)
        return self._head(last), as_map(self.net, last)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Less memory for more time, where timm has it for this network."""
        self.net.set_grad_checkpointing(enable)
        self.grad_checkpointing = enable

    def _last(self, images: Tensor) -> Tensor:
        # A compiler sees to this by itself, and would not look through the norms' hooks.
        if self.grad_checkpointing and not torch.compiler.is_compiling():
            move_once(self.net)  # not before: other norms may have taken the place of the first
        return self.net.forward_features(normalise(images, self.spec.mean, self.spec.std))

    def _head(self, last: Tensor) -> Tensor:
        feature = self.net.forward_head(last)
        return self.bottleneck(feature) if self.spec.feature_norm else feature


def of_timm(
    network: TimmNetwork, path: Path, found: dict[str, Tensor], aside: list[str]
) -> Checkpoint:
    """A file of timm's own, with the tensors ``found``, taken for weights of this network.

    The classifier is left aside; all else has to be the network's.
    """
    classifier = (network.net.pretrained_cfg or {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    ends = tuple(f"{name}." for name in names)
    bare = {name: bare_name(name) for name in found}
    dropped = [name for name in found if bare[name].startswith(ends)]
    state = {f"net.{bare[name]}": found[name] for name in found.keys() - set(dropped)}
    return Checkpoint(path, TIMM_WEIGHTS, state, [*dropped, *aside])
