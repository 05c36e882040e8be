"""DINOv2's vision transformers (arXiv 2304.07193), also those with registers (arXiv 2309.16588).

Their blocks scale what they add (LayerScale, 2103.17239), their patches have 14 pixels, and
registers are tokens without a place that only the blocks look at.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from transreid_ssl.models.pooling import generalised_mean
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.vit import ReIDViT

_FIRST_SCALE = 1e-5


class RegisterViT(ReIDViT):
    """A ViT with scaled blocks and registers between its class token and its patches.

    The feature (B, D) is the class token after the last norm; registers are in none.
    """

    def __init__(self, spec: BackboneSpec, **options: Any) -> None:
        super().__init__(spec, init_values=_FIRST_SCALE, **options)
        sizes = spec.architecture
        self.num_prefix_tokens = 1 + sizes.registers
        if sizes.registers:
            self.reg_token = nn.Parameter(torch.empty(1, sizes.registers, sizes.width))
            nn.init.normal_(self.reg_token, std=1e-6)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layers; registers are as early as the class token."""
        layers = super().group_matcher(coarse)
        return layers | {"stem": layers["stem"] + r"|reg_token"}

    def _leading_tokens(self) -> Tensor:
        if self.num_prefix_tokens == 1:
            return self.cls_token
        return torch.cat([self.cls_token, self.reg_token], dim=1)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        places = super()._positions(grid)
        if self.num_prefix_tokens == 1:
            return places
        none = places.new_zeros(1, self.num_prefix_tokens - 1, places.shape[-1])
        return torch.cat([places[:, :1], none, places[:, 1:]], dim=1)

    def _summary(self, tokens: Tensor) -> Tensor:
        feature, patches = tokens[:, 0], tokens[:, self.num_prefix_tokens :]
        return feature + generalised_mean(patches) if self.spec.gem else feature


def own_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of DINOv2, as its authors or timm name them, by the names of ``RegisterViT``.

    timm keeps the class token's position in the token where there are registers, so that its own
    is 0 here.
    """
    renamed = {{"register_tokens": "reg_token"}.get(k, k): v for k, v in state.items()}
    places = renamed.get("pos_embed")
    has_places = "reg_token" in renamed and places is not None and places.ndim == 3
    if has_places and round(places.shape[1] ** 0.5) ** 2 == places.shape[1]:
        renamed["pos_embed"] = torch.cat((torch.zeros_like(places[:, :1]), places), dim=1)
    return renamed
