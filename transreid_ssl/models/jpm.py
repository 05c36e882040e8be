"""The jigsaw patch module of TransReID (He et al., ICCV 2021, arXiv 2102.04378, section 3.3)."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transreid_ssl.models.architectures import LOCAL_BRANCHES
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.vit import ReIDViT

GROUPS = 2
"""Patches are dealt to so many groups, which are then mixed."""


class JPMViT(ReIDViT):
    """A ViT whose last block is there twice: for the whole image, and for quarters of its patches.

    The patches that come out of the block before are shifted and shuffled, so that each quarter has
    some of the whole person, and each quarter passes the second copy with the class token. The
    feature (B, 5 D) is the whole's class token, then those of the quarters, each divided by their
    number. With ``spec.feature_norm`` each of the five has a batch norm of its own.
    """

    def __init__(self, spec: BackboneSpec, **options: Any) -> None:
        super().__init__(spec, **options)
        # Block and norm, under their published name; the whole's are those of any ViT.
        self.b2: nn.Sequential = nn.Sequential(
            copy.deepcopy(self.blocks[-1]), copy.deepcopy(self.norm)
        )
        if spec.feature_norm:
            for branch in range(1, 1 + LOCAL_BRANCHES):
                setattr(self, f"bottleneck_{branch}", copy.deepcopy(self.bottleneck))

    def _features(self, groups: Sequence[Tensor]) -> Tensor:
        return torch.cat([self._encode(tokens)[0] for tokens in groups])

    def _encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        *blocks, last = self.blocks
        (before,) = self._run(blocks, [tokens])
        tokens = self.norm(self._run([last], [before])[0])
        whole, parts = self._summary(tokens), self._local_features(before)
        if self.spec.feature_norm:
            whole = self.bottleneck(whole)
            parts = [getattr(self, f"bottleneck_{i}")(part) for i, part in enumerate(parts, 1)]
        feature = torch.cat([whole, *(part / LOCAL_BRANCHES for part in parts)], dim=1)
        return self.head(self.head_drop(feature)), tokens

    def _local_features(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Class tokens (B, D) of each quarter of the patches, from the tokens of a whole image."""
        token, patches = tokens[:, None, :1], tokens[:, 1:]
        length = patches.shape[1] // LOCAL_BRANCHES  # what is left over is not looked at
        patches = shift_and_shuffle(patches, self.spec.jpm_shift)[:, : LOCAL_BRANCHES * length]
        parts = patches.unflatten(1, (LOCAL_BRANCHES, length))  # (B, 4, N / 4, D)
        parts = torch.cat((token.expand(-1, LOCAL_BRANCHES, -1, -1), parts), dim=2)
        block, norm = self.b2
        leading = self._looked_at(parts.device)
        (parts,) = self._run([block], [parts.flatten(0, 1)], leading)
        features = self._summary(norm(parts))
        return features.unflatten(0, (-1, LOCAL_BRANCHES)).unbind(1)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layers; the second copy of the last block, and its norm, are as late as these."""
        layers = super().group_matcher(coarse)
        return layers | {"blocks": [*layers["blocks"], (r"^b2\.", (len(self.blocks) - 1,))]}


def shift_and_shuffle(patches: Tensor, shift: int) -> Tensor:
    """Reorder (B, N, D): the second half's patches come between the first half's, after a shift.

    The shift counts the class token, which the authors cut off with the patches that they move to
    the end: these are ``shift - 1``. Of an odd number the last but one comes twice.
    """
    patches = patches.roll(1 - shift, dims=1)
    if patches.shape[1] % GROUPS:
        patches = torch.cat((patches, patches[:, -2:-1]), dim=1)
    return patches.unflatten(1, (GROUPS, -1)).transpose(1, 2).flatten(1, 2)


def split_branches(features: Tensor, spec: BackboneSpec) -> list[Tensor]:
    """The vectors (B, D) that losses see of features: they as they are, or a JPM's five.

    Those of the quarters are at the scale that they had before the feature was put together.
    """
    if not spec.jpm:
        return [features]
    whole, *parts = features.chunk(spec.num_branches, dim=1)
    return [whole, *(part * LOCAL_BRANCHES for part in parts)]


def with_local_branch(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Weights of a ViT, and if it has none for the quarters, its last block's and norm's again."""
    if any(name.startswith("b2.") for name in state):
        return dict(state)
    copies = {f"blocks.{depth - 1}.": "b2.0.", "norm.": "b2.1."}
    result = dict(state)
    for source, target in copies.items():
        found = [name for name in state if name.startswith(source)]
        result |= {target + name.removeprefix(source): state[name] for name in found}
    return result


def own_names(names: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Names in a published file -> our names, under the prefix of the file's ViT.

    The authors keep the whole's last block and norm as ``b1``, beside those that were copied and
    that nothing uses any more. So these come last, and are left over where one name is there twice.

    Args:
        names: names in the file -> the same without wrappers.
    """
    if not any(name.startswith("b2.") for name in names.values()):
        return dict(names)
    blocks = [re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", name) for name in names.values()]
    last = max((int(block[1]) for block in blocks if block), default=0)
    renaming = {"b1.0.": f"blocks.{last}.", "b1.1.": "norm.", "b2.": "b2."}
    used, others = {}, {}
    for name, bare in names.items():
        theirs = next((start for start in renaming if bare.startswith(start)), None)
        if theirs is None:
            others[name] = bare
        else:
            used[name] = prefix + renaming[theirs] + bare.removeprefix(theirs)
    return used | others
