"""The part-aware vision transformer of PASS (Zhu et al., ECCV 2022, arXiv 2203.03931)."""

from typing import Any

import torch
from torch import Tensor, nn

from transreid_ssl.models.architectures import ViTArchitecture
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.vit import ReIDViT


class PartTokenViT(ReIDViT):
    """A ViT with tokens for parts of a person beside its class token.

    In pre-training each part token saw crops of one area, and a network like this one is what PASS
    publishes and fine-tunes. The feature (B, 2 D) is the class token and the mean of the part
    tokens, one after the other. The authors' other choice, the mean of these two, is not made here,
    and their files do not tell which was. Positions of the size built for are taken as they are, as
    the authors fine-tune them; their pre-training resamples even these, by a hair.
    """

    num_prefix_tokens: int
    pos_embed: nn.Parameter

    def __init__(self, spec: BackboneSpec, **options: Any) -> None:
        super().__init__(spec, **options)
        sizes = spec.architecture
        assert isinstance(sizes, ViTArchitecture)
        self.num_prefix_tokens = 1 + sizes.part_tokens
        # The class token's position has a name of its own here, as all have in published weights.
        self.cls_pos: nn.Parameter = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(self.pos_embed[:, 1:].detach().clone())
        for part in range(1, self.num_prefix_tokens):
            for name in (f"part_token{part}", f"part{part}_pos"):
                setattr(self, name, nn.Parameter(torch.empty(1, 1, sizes.width)))
                nn.init.trunc_normal_(getattr(self, name), std=0.02)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layers; all tokens and positions are as early as the class token."""
        layers = super().group_matcher(coarse)
        return layers | {"stem": layers["stem"] + r"|cls_pos|part_token\d|part\d+_pos"}

    def forward_areas(self, large: Tensor, small: Tensor | None = None) -> list[Tensor]:
        """Class and part tokens after the last norm, as PASS pre-trains them (section 3.2).

        Args:
            large: Images of whole persons, (B, 3, H, W), which have all P part tokens.
            small: Crops of areas, ordered by their area, (P·b, 3, h, w): each has the part token of
                its own area beside the class token.

        Returns:
            Of the large images (B, 1 + P, D), and of the crops of each area (b, 2, D).
        """
        leading = self.num_prefix_tokens
        groups = [self._embed(large, None, None)]
        if small is not None:
            areas = self._embed(small, None, None).chunk(leading - 1)
            groups += [
                torch.cat([area[:, :1], area[:, part : part + 1], area[:, leading:]], dim=1)
                for part, area in enumerate(areas, 1)
            ]
        # A crop of one patch has fewer tokens than a large image has leading ones.
        long = min(group.shape[1] for group in groups) >= leading
        tokens = self._run(self.blocks, groups, self._looked_at(large.device) if long else None)
        whole, *parts = (self.norm(group) for group in tokens)
        return [whole[:, :leading], *(part[:, :2] for part in parts)]

    def _leading_tokens(self) -> Tensor:
        parts = range(1, self.num_prefix_tokens)
        return torch.cat([self.cls_token, *(getattr(self, f"part_token{i}") for i in parts)], dim=1)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        parts = (getattr(self, f"part{i}_pos") for i in range(1, self.num_prefix_tokens))
        return torch.cat([self.cls_pos, *parts, super()._positions(grid)], dim=1)

    def _summary(self, tokens: Tensor) -> Tensor:
        parts = tokens[:, 1 : self.num_prefix_tokens]
        return torch.cat((tokens[:, 0], parts.mean(dim=1)), dim=1)
