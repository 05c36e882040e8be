"""ResNets for ReID: instance norms (IBN-a), a last stage that keeps its resolution.

The blocks are timm's, and the weights have the names that torchvision gave them, as in published
files.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from transreid_ssl.models.architectures import ResNetArchitecture
from transreid_ssl.models.checkpointing import run_blocks
from transreid_ssl.models.ibn import IBN
from transreid_ssl.models.pooling import generalised_mean
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.statistics import normalise
from transreid_ssl.models.timm_config import TimmConfig


class Compilable(nn.Module):
    """What makes a block of timm's one that training can run compiled.

    Norms, ReLUs and sums between the convolutions become few kernels, and the host starts one
    program instead of thirty operations, which is what bounds small batches on a GPU.
    """

    compiles: bool = False

    def forward(self, x: Tensor) -> Tensor:
        if self.compiles and self.training:
            return compiled(type(self))(self, x)
        return self.plain_forward(x)

    def plain_forward(self, x: Tensor) -> Tensor:
        """The block as timm has it, which is what is compiled."""
        return super().forward(x)


class CompilableBasicBlock(Compilable, BasicBlock):
    """Two convolutions and a shortcut."""


class CompilableBottleneck(Compilable, Bottleneck):
    """Three convolutions, the middle one narrower, and a shortcut."""


@functools.cache
def compiled(block: type[Compilable]) -> Callable[..., Tensor]:
    """``block.plain_forward``, compiled: blocks of the same sizes share a program."""
    return torch.compile(block.plain_forward, dynamic=False)


def compile_residuals(network: nn.Module) -> None:
    """Let training compile the residual blocks of a network; in evaluation, where sizes change from
    batch to batch, nothing is compiled. Left as they are: blocks whose norms share statistics
    between processes, which no compiler looks into."""
    for block in network.modules():
        if isinstance(block, Compilable):
            block.compiles = not any(isinstance(m, nn.SyncBatchNorm) for m in block.modules())


class Trunk(ResNet):
    """timm's ResNet of these sizes, with IBN-a and a choice of the last stride.

    IBN-a puts half instance, half batch norm after the first convolution of each block of the first
    three stages; the last, which tells people apart, has batch norms alone (Pan et al., 2018).

    Args:
        stride: pixels of the image for a cell of the last map: 32, or 16.
        options: of timm's ``ResNet``. Residual branches do not start at zero, as in torchvision,
            with which the published weights were trained.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    num_features: int

    def __init__(self, sizes: ResNetArchitecture, stride: int = 32, **options: Any) -> None:
        super().__init__(
            CompilableBottleneck if sizes.bottleneck else CompilableBasicBlock,
            sizes.depths,
            channels=sizes.channels,
            **{"num_classes": 0, "zero_init_last": False, **options},
        )
        if sizes.ibn:
            for stage in (self.layer1, self.layer2, self.layer3):
                for block in stage:
                    block.bn1 = IBN(block.bn1.num_features)
        if stride == 16:
            keep_resolution(self.layer4)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map (B, D, h, w) of normalised images."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        stages = self.layer1, self.layer2, self.layer3, self.layer4
        return run_blocks(stages, x, self.grad_checkpointing)


def keep_resolution(stage: nn.Module) -> None:
    """Let the convolutions of a stage keep the size of its map; its weights are the same."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


class ReIDResNet(TimmConfig, Trunk):
    """A ResNet whose feature is the mean of its last map (LUPerson, arXiv 2012.03753).

    Called with images (B, 3, H, W) of any size, uint8 or float if normalised already; gives (B, D).
    ``spec`` tells how it is built; ``cameras`` are taken, so that all backbones are called alike,
    and not used.
    """

    spec: BackboneSpec

    def __init__(self, spec: BackboneSpec, **options: Any) -> None:
        sizes = spec.architecture
        assert isinstance(sizes, ResNetArchitecture)
        super().__init__(sizes, spec.stride, **options)
        self.spec = spec
        if spec.feature_norm:
            self.bottleneck: nn.BatchNorm1d = nn.BatchNorm1d(spec.own_dim)
            self.bottleneck.bias.requires_grad_(False)

    def compile_blocks(self) -> None:
        """See ``compile_residuals``."""
        compile_residuals(self)

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_groups(self, groups: Sequence[Tensor]) -> Tensor:
        """Features (B, D) of images of several sizes, one group after the other."""
        return torch.cat([self(images) for images in groups])

    def forward_with_map(
        self, images: Tensor, cameras: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The feature (B, D) and, of the same pass, the last map (B, D, h, w)."""
        maps = self.forward_features(images)
        return self.forward_head(maps), maps

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map (B, D, h, w)."""
        return super().forward_features(normalise(x, self.spec.mean, self.spec.std))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map (B, D, h, w) to the feature (B, D), or to logits where timm was asked for some."""
        feature = self.pool(x)
        return feature if pre_logits else self.fc(feature)

    def pool(self, x: Tensor) -> Tensor:
        """Map (B, D, h, w) to the feature (B, D)."""
        if self.spec.gem:
            feature = generalised_mean(x.flatten(2).transpose(1, 2))
        else:
            feature = self.global_pool(x)
        return self.bottleneck(feature) if self.spec.feature_norm else feature
