"""The networks under their names in timm.

After ``import transreid_ssl.models``, for example
``timm.create_model("vit_small_patch16_ics", img_size=(256, 128))``.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from timm.models import DefaultCfg, build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from transreid_ssl.models.architectures import (
    ARCHITECTURES,
    Architecture,
    MGNArchitecture,
    ResNetArchitecture,
    TimmArchitecture,
    ViTArchitecture,
)
from transreid_ssl.models.convolution import with_reliable_convolutions
from transreid_ssl.models.jpm import JPMViT
from transreid_ssl.models.mgn import MGN
from transreid_ssl.models.part_tokens import PartTokenViT
from transreid_ssl.models.registers import RegisterViT
from transreid_ssl.models.resnet import ReIDResNet
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.statistics import IMAGENET
from transreid_ssl.models.striped import reading
from transreid_ssl.models.timm_build import ENTRY
from transreid_ssl.models.timm_network import TimmNetwork
from transreid_ssl.models.vit import ReIDViT

_NETWORKS = {
    ViTArchitecture: ReIDViT, ResNetArchitecture: ReIDResNet, MGNArchitecture: MGN,
    TimmArchitecture: TimmNetwork,
}  # fmt: skip


def _network(spec: BackboneSpec) -> type[nn.Module]:
    sizes = spec.architecture
    if isinstance(sizes, ViTArchitecture) and sizes.part_tokens:
        return PartTokenViT
    if isinstance(sizes, ViTArchitecture) and sizes.scaled:
        return RegisterViT
    return JPMViT if spec.jpm else _NETWORKS[type(sizes)]


def _ends(sizes: Architecture) -> dict[str, str | None]:
    """What timm wants to know of a network's first and last layer."""
    if isinstance(sizes, ViTArchitecture):
        first = "patch_embed.conv.0" if sizes.stem_hidden else "patch_embed.proj"
        return {"first_conv": first, "classifier": "head"}
    classifier = "fc" if isinstance(sizes, ResNetArchitecture) else None
    return {"first_conv": "conv1", "classifier": classifier}


default_cfgs: dict[str, DefaultCfg] = generate_default_cfgs({})
"""Read by register_model; without img_size, timm builds for the input size given here."""


def register(name: str, sizes: Architecture) -> None:
    """Make a network of these sizes known under ``name``, to timm and in weights files."""
    ARCHITECTURES[name] = sizes
    _tell_timm(name, _ends(sizes), {"name": name})


def _tell_timm(name: str, ends: dict[str, str | None], fixed: dict[str, str]) -> None:
    usual = {"input_size": (3, 256, 128), "num_classes": 0}
    statistics = {"mean": IMAGENET.mean, "std": IMAGENET.std}
    default_cfgs.update(generate_default_cfgs({name: {**usual, **statistics, **ends}}))
    globals()[name] = register_model(_entrypoint(name, fixed))


def _entrypoint(name: str, fixed: dict[str, str]) -> Callable[..., nn.Module]:
    def create(
        pretrained: bool = False, spec: BackboneSpec | None = None, **kwargs: Any
    ) -> nn.Module:
        """Give either a complete ``spec``, or its fields as keywords, beside timm's own options."""
        own = {f.name: kwargs.pop(f.name) for f in fields(BackboneSpec) if f.name in kwargs}
        spec = spec or BackboneSpec(**fixed, **own)
        network = reading(_network(spec)) if spec.readout else _network(spec)
        model = build_model_with_cfg(network, name, pretrained, spec=spec, **kwargs)
        return with_reliable_convolutions(model)

    create.__name__ = create.__qualname__ = name
    return create


__all__: list[str] = []  # register_model appends each name
for _name, _sizes in list(ARCHITECTURES.items()):
    register(_name, _sizes)
_tell_timm(ENTRY, {}, {})  # whose name is one of the options
