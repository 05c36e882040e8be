"""The names that fast-reid's MGN, which LUPerson fine-tunes, gives its weights."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_SHARED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3.0"}
"""What the numbers of its trunk are; 2 and 3, ReLU and pooling, have no weights."""
_HEADS = {
    f"b{branch + 1}{vector or ''}_head": (branch, vector)
    for branch, stripes in enumerate((0, 2, 3))
    for vector in range(stripes + 1)
}
"""Its eight heads: the branch, and the place in it, where the whole person is the first."""


def is_mgn(names: Iterable[str]) -> bool:
    """Whether the weights of these names are of an MGN of fast-reid that pools as LUPerson's."""
    own = ("backbone.0.weight", "b1_head.pool_layer.p", "b1_head.bottleneck.0.weight")
    return set(own) <= set(names)


def mgn_name(name: str) -> str | None:
    """This package's name for a weight; None for class heads and the statistics of images."""
    shared = re.fullmatch(r"backbone\.(\d)\.(.+)", name)
    if shared:
        return f"{_SHARED[shared[1]]}.{shared[2]}" if shared[1] in _SHARED else None
    stage = re.fullmatch(r"b([123])\.([01])\.(\d+)\.(.+)", name)
    if stage:
        branch, block = int(stage[1]) - 1, int(stage[3])
        # Its third stage is numbered anew from the block where the branches begin, the second.
        place = f"layer4.{block}" if stage[2] == "1" else f"layer3.{block + 1}"
        return f"branches.{branch}.{place}.{stage[4]}"
    norm = re.fullmatch(r"heads_extra_bn_b([123])\.(.+)", name)
    if norm:
        return f"branches.{int(norm[1]) - 1}.norm.{norm[2]}"
    head = re.fullmatch(r"(b\d+_head)\.(pool_layer\.p|bottleneck\.(.+))", name)
    if head is None or head[1] not in _HEADS:
        return None
    branch, vector = _HEADS[head[1]]
    if head[3] is None:
        return f"branches.{branch}.pools.{vector}.power"
    return f"branches.{branch}.reductions.{vector}.{head[3]}"


def with_linear_reductions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its reductions are 1x1 convolutions (d, C, 1, 1); here they are linear layers (d, C)."""
    return {
        name: value.flatten(1) if ".reductions." in name and value.ndim == 4 else value
        for name, value in state.items()
    }
