"""Multiple Granularity Network (Wang et al., ACM MM 2018, arXiv 1804.01438).

One ResNet up to the first block of its third stage, then three branches with weights of their own:
one looks at the whole person, one also at halves, one also at thirds. The branches end as in that
paper, or as in the network that LUPerson (arXiv 2012.03753) fine-tunes.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.models.architectures import MGNArchitecture
from transreid_ssl.models.checkpointing import run_blocks
from transreid_ssl.models.pooling import GeneralisedMean
from transreid_ssl.models.resnet import Trunk, compile_residuals, keep_resolution
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.statistics import normalise
from transreid_ssl.models.timm_config import TimmConfig

STRIPES = (1, 2, 3)
"""Horizontal parts of each branch."""


class MGNParts(NamedTuple):
    """What the losses of an MGN see.

    Attributes:
        pooled: (B, 3, C), each branch's map pooled as a whole, before its reduction.
        whole: (B, 3, d), the same after it.
        parts: (B, 5, d), the two halves, then the three thirds, after theirs.
    """

    pooled: Tensor
    whole: Tensor
    parts: Tensor

    @property
    def feature(self) -> Tensor:
        """(B, 8 d): all reduced vectors, what retrieval compares."""
        return torch.cat((self.whole, self.parts), dim=1).flatten(1)


class Branch(nn.Module):
    """The rest of the third stage, the last stage, pooling and reductions of one branch.

    The batch norm over the last map is not in MGN's paper: LUPerson's fine-tuning has it, where
    self-supervised weights give maps of another scale than supervised ones.

    Args:
        trunk: its weights are copied.
        stripes: horizontal parts that are pooled beside the whole; 1 for none.
        sizes: the head's kind, and the values of a reduced vector.
    """

    layer3: nn.Sequential
    layer4: nn.Sequential
    norm: nn.BatchNorm2d
    pools: nn.ModuleList
    reductions: nn.ModuleList

    def __init__(self, trunk: Trunk, stripes: int, sizes: MGNArchitecture) -> None:
        super().__init__()
        self.stripes = stripes
        self.layer3 = copy.deepcopy(trunk.layer3[1:])  # keeps the blocks' numbers
        self.layer4 = copy.deepcopy(trunk.layer4)
        if stripes > 1 or sizes.head == "luperson":
            keep_resolution(self.layer4)
        self.norm = nn.BatchNorm2d(trunk.num_features)
        pool, reduction = _HEADS[sizes.head]
        count = 1 if stripes == 1 else 1 + stripes
        self.pools = nn.ModuleList(pool() for _ in range(count))
        self.reductions = nn.ModuleList(
            reduction(trunk.num_features, sizes.dim) for _ in range(count)
        )

    def forward(self, x: Tensor, checkpoint: bool = False) -> tuple[Tensor, Tensor]:
        """Shared map -> pooled vectors (B, n, C), the whole first, and reduced ones (B, n, d)."""
        x = run_blocks((self.layer3, self.layer4), x, checkpoint)
        regions = whole_and_stripes(self.norm(x), self.stripes)
        pooled = [pool(region) for pool, region in zip(self.pools, regions)]
        reduced = [layer(vectors) for layer, vectors in zip(self.reductions, pooled)]
        return torch.stack(pooled, dim=1), torch.stack(reduced, dim=1)


def whole_and_stripes(x: Tensor, stripes: int) -> list[Tensor]:
    """Map (B, C, h, w) -> the map itself, then its horizontal stripes (B, C, rows, w), top first.

    Stripes share a row where they do not divide the height; with one stripe there is the whole
    alone.
    """
    if stripes == 1:
        return [x]
    height = x.shape[2]
    starts = [i * height // stripes for i in range(stripes)]
    ends = [-(-i * height // stripes) for i in range(1, stripes + 1)]  # rounded up
    return [x, *(x[:, :, start:end] for start, end in zip(starts, ends))]


def _maximum() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())


def _rectified(channels: int, dim: int) -> nn.Sequential:
    # On a pooled vector, a 1x1 convolution is a linear layer.
    return nn.Sequential(nn.Linear(channels, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU())


def _centred(channels: int, dim: int) -> nn.Sequential:
    """A vector that lies around the origin: the bias of its norm stays 0."""
    linear, norm = nn.Linear(channels, dim, bias=False), nn.BatchNorm1d(dim)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(norm.weight, mean=1.0, std=0.02)
    norm.bias.requires_grad_(False)
    return nn.Sequential(linear, norm)


_HEADS = {"mgn": (_maximum, _rectified), "luperson": (GeneralisedMean, _centred)}
"""For each kind of head how a vector is pooled, and how it is reduced."""


class MGN(TimmConfig, nn.Module):
    """A multiple granularity network over a ResNet.

    Called with images (B, 3, H, W), uint8 or float if normalised already; gives the feature
    (B, 8 d). ``spec`` tells how it is built. ``cameras`` are taken, so that all backbones are
    called alike, and not used.

    Args:
        options: of timm's ``ResNet``.
    """

    spec: BackboneSpec
    num_classes: int
    grad_checkpointing: bool
    conv1: nn.Module
    bn1: nn.Module
    act1: nn.Module
    maxpool: nn.Module
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    branches: nn.ModuleList

    def __init__(self, spec: BackboneSpec, **options: Any) -> None:
        super().__init__()
        if options.get("num_classes"):
            raise UserError(f"num_classes: {spec.name} has no classifier; leave it out")
        sizes = spec.architecture
        assert isinstance(sizes, MGNArchitecture)
        trunk = Trunk(sizes.trunk, **options)
        self.spec, self.num_classes, self.grad_checkpointing = spec, 0, False
        self.conv1, self.bn1, self.act1, self.maxpool = (
            trunk.conv1, trunk.bn1, trunk.act1, trunk.maxpool,
        )  # fmt: skip
        self.layer1, self.layer2, self.layer3 = trunk.layer1, trunk.layer2, trunk.layer3[:1]
        self.branches = nn.ModuleList(Branch(trunk, stripes, sizes) for stripes in STRIPES)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Less memory for more time."""
        self.grad_checkpointing = enable

    def compile_blocks(self) -> None:
        """See ``compile_residuals``."""
        compile_residuals(self)

    def forward(
        self, images: Tensor, cameras: Tensor | None = None, *, parts: bool = False
    ) -> Tensor | MGNParts:
        """The feature (B, 8 d), or with ``parts`` all that the losses see."""
        images = normalise(images, self.spec.mean, self.spec.std)
        x = self.maxpool(self.act1(self.bn1(self.conv1(images))))
        x = run_blocks((self.layer1, self.layer2, self.layer3), x, self.grad_checkpointing)
        pooled, reduced = zip(*(branch(x, self.grad_checkpointing) for branch in self.branches))
        found = MGNParts(
            pooled=torch.stack([vectors[:, 0] for vectors in pooled], dim=1),
            whole=torch.stack([vectors[:, 0] for vectors in reduced], dim=1),
            parts=torch.cat([vectors[:, 1:] for vectors in reduced], dim=1),
        )
        return found if parts else found.feature

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Those that initial weights of a ResNet give; what follows the last maps is new."""
        return [value for name, value in self.named_parameters() if not NEW_LAYERS.match(name)]

    def train_pretrained(self, mode: bool) -> None:
        """Put the layers of ``pretrained_parameters`` in training or in evaluation mode.

        In evaluation mode their batch norms normalise with their statistics, and keep them.
        """
        stages = (self.layer1, self.layer2, self.layer3)
        ends = [stage for branch in self.branches for stage in (branch.layer3, branch.layer4)]
        for module in (self.conv1, self.bn1, *stages, *ends):
            module.train(mode)


NEW_LAYERS = re.compile(r"branches\.\d\.(norm|pools|reductions)\.")
"""What an MGN has beside copies of a ResNet's weights."""


def branched(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet's weights under an MGN's names: every branch gets what it is a copy of."""
    result = {}
    for name, value in state.items():
        if re.match(r"(layer3\.(?!0\.)|layer4\.)", name):
            result |= {f"branches.{i}.{name}": value for i in range(len(STRIPES))}
        else:
            result[name] = value
    return result
