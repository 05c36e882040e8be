"""What is put on a backbone while it is trained, and thrown away afterwards."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WeightNormLinear(nn.Module):
    """A linear layer without bias, of rows ``weight_g * weight_v / |weight_v|``.

    Weight normalisation is from Salimans & Kingma, 2016. The parameters have the names that torch's
    older ``weight_norm`` gave them, which published checkpoints use.
    """

    weight_g: nn.Parameter
    weight_v: nn.Parameter

    def __init__(self, in_features: int, out_features: int, train_norm: bool = True) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1), requires_grad=train_norm)
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        # As a linear layer starts, which gives rows of length 0.577, because the authors draw only
        # the layers below anew. The layer's function does not depend on these lengths, but the
        # longer rows are, the more slowly an optimiser's steps turn them.
        bound = in_features**-0.5
        nn.init.uniform_(self.weight_v, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        # The fused function behind torch's own weight_norm: forward and backward of a step with
        # 65,536 prototypes took a third of the time of the same formula written out.
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class DINOHead(nn.Module):
    """Projection head of DINO: MLP, L2 normalisation, weight-normalised layer.

    (N, in_dim) -> prototype logits (N, out_dim). From Caron et al., 2021, appendix C.

    Args:
        num_layers: linear layers of the MLP, at least 1.
        norm_last_layer: keep the prototypes at length 1, which is steadier for small batches.
        use_bn: batch norm between the MLP's layers.
    """

    mlp: nn.Module
    last_layer: WeightNormLinear

    def __init__(
        self,
        in_dim: int,
        out_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        num_layers: int = 3,
        norm_last_layer: bool = True,
        use_bn: bool = False,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError("num_layers must be at least 1")
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layers.append(nn.Linear(in_dim, hidden_dim))
            layers += [nn.BatchNorm1d(hidden_dim)] if use_bn else []
            layers.append(nn.GELU())
            in_dim = hidden_dim
        self.mlp = nn.Sequential(*layers, nn.Linear(in_dim, bottleneck_dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, not norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))


class BNNeck(nn.Module):
    """Batch norm, then a classifier, so that triplet and identity losses do not fight.

    Features (B, D) -> normalised features (B, D), logits (B, num_classes). The triplet loss takes
    the features that go in. The norm's bias stays 0 and the classifier has none, so that classes
    lie around the origin (Luo et al., 2019, section 3.5).
    """

    bottleneck: nn.BatchNorm1d
    classifier: nn.Linear

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.bottleneck = nn.BatchNorm1d(dim)
        self.bottleneck.bias.requires_grad_(False)
        self.classifier = nn.Linear(dim, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        normalised = self.bottleneck(features)
        return normalised, self.classifier(normalised)


class CosineClassifier(nn.Module):
    """Cosines between features and a weight for each class: (B, D) -> float32 (B, num_classes)."""

    weight: nn.Parameter

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, dim))
        nn.init.uniform_(self.weight, -1 / math.sqrt(dim), 1 / math.sqrt(dim))

    def forward(self, features: Tensor) -> Tensor:
        # In float32 whatever the network runs in: losses multiply cosines by large numbers.
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(F.normalize(features.float()), F.normalize(self.weight))


class UnitFeatures(nn.Module):
    """A backbone whose features have length 1: images uint8 (B, 3, H, W) -> float32 (B, D)."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.backbone(images), dim=1)
