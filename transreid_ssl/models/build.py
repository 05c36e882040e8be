"""Building networks of every family."""

from collections.abc import Sequence
from typing import Any, cast

import timm

from transreid_ssl.models.mgn import MGN
from transreid_ssl.models.resnet import ReIDResNet
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.timm_build import entry
from transreid_ssl.models.timm_network import TimmNetwork
from transreid_ssl.models.vit import ReIDViT

ViewBackbone = ReIDViT | ReIDResNet | TimmNetwork
"""Those that views of several sizes pass together, as pre-training wants it: all but an MGN."""
Backbone = ViewBackbone | MGN
"""Maps images (B, 3, H, W), and cameras where it embeds them, to (B, D); has ``.spec``.

uint8 images are normalised in the network, with its spec's mean and std as they are at that moment;
float ones are taken as they are.
"""


def build_backbone(
    name: str,
    *,
    img_size: Sequence[int] = (256, 128),
    drop_path: float = 0.0,
    stride: int | None = None,
    **options: Any,
) -> Backbone:
    """A freshly initialised backbone, in training mode, with its ``.spec``.

    Args:
        name: one of ``ARCHITECTURES``, or one of timm's behind ``timm:``.
        img_size: (height, width) in pixels.
        drop_path: stochastic depth, the rate of the last block; the first has none.
        stride: pixels between patches, or of a ResNet's last map (32 or 16); the network's own when
            None.
        options: further fields of ``BackboneSpec``: ``num_cameras``, ``gem``, ``mean``, ``std``…

    Raises:
        UserError: an unknown name, or an impossible option.
    """
    spec = BackboneSpec(name=name, img_size=tuple(img_size), stride=stride or 0, **options)
    return from_spec(spec, drop_path=drop_path)


def from_spec(spec: BackboneSpec, *, drop_path: float = 0.0) -> Backbone:
    """A freshly initialised backbone for this spec, in training mode, through timm's registry."""
    model = timm.create_model(entry(spec.name), spec=spec, drop_path_rate=drop_path)
    return cast(Backbone, model)  # as the registry has told timm
