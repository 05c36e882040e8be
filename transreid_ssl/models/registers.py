"""DINOv2's vision transformers (arXiv 2304.07193), also those with registers (arXiv 2309.16588).

Their blocks scale what they add (LayerScale, 2103.17239), their patches have 14 pixels, and
registers are tokens without a place that only the blocks look at.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from transreid_ssl.models.positions import is_square
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.vit import ReIDViT

_FIRST_SCALE = 1e-5


class RegisterViT(ReIDViT):
    """A ViT with scaled blocks, and registers between its class token and its patches.

    The feature (B, D) is the class token after the last norm; registers are in none.
    """

    def __init__(self, spec: BackboneSpec, **options: Any) -> None:
        super().__init__(spec, init_values=_FIRST_SCALE, **options)


def own_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of DINOv2, as its authors or timm name them, by the names of ``RegisterViT``.

    timm keeps the class token's position in the token where there are registers, so that its own
    is 0 here.
    """
    renamed = dict(state)
    if "register_tokens" in renamed:
        renamed["reg_token"] = renamed.pop("register_tokens")
    places = renamed.get("pos_embed")
    has_places = "reg_token" in renamed and places is not None and places.ndim == 3
    if has_places and is_square(places.shape[1]):
        renamed["pos_embed"] = torch.cat((torch.zeros_like(places[:, :1]), places), dim=1)
    return renamed
