"""Networks of timm by their names, built for an image size, and what is to be known of one."""

import re
from functools import lru_cache
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from transreid_ssl.errors import UserError, brief
from transreid_ssl.words import nearest

PREFIX = "timm:"
"""What the names of timm's own networks begin with here: ``timm:repvit_m1_0``."""
ENTRY = "timm_network"
"""What timm itself knows all of them by as they are built here, with ``name`` among the options."""
_REFERENCE = (256, 128)  # (height, width), at which a feature's length is found


class Facts(NamedTuple):
    """What a forward pass shows: the length of a feature, the values of a map's cell, its cells."""

    embed_dim: int
    map_dim: int
    grid: tuple[int, int]


def is_timm(name: str) -> bool:
    """Whether a network is one of timm's own, by its name here."""
    return name.startswith(PREFIX)


def entry(name: str) -> str:
    """The name that timm's registry has for the network of this name here."""
    return ENTRY if is_timm(name) else name


def require_known(name: str) -> None:
    """Raise ``UserError`` unless timm has a network of this name, which begins with ``PREFIX``.

    A name comes from headers of files, too: nothing but a name of timm's list is passed on to timm,
    which would otherwise download for some.
    """
    bare = name.removeprefix(PREFIX)
    if re.fullmatch(r"\w+", bare, re.ASCII) and timm.is_model(bare):
        return
    meant = nearest(bare, timm.list_models(), PREFIX)
    raise UserError(f"network {name!r}: timm {timm.__version__} has none of this name{meant}")


def meant_of_timm(name: str) -> str:
    """A question whether timm's network was meant by a name that lacks ``PREFIX``."""
    return nearest(name, [name], PREFIX) if name in timm.list_models() else ""


def build_timm(name: str, img_size: tuple[int, int], drop_path: float = 0.0) -> nn.Module:
    """timm's network without a classifier, randomly initialised, in training mode.

    Args:
        name: with ``PREFIX``.
        img_size: (height, width), told to those networks that are built for a size.
        drop_path: stochastic depth, of the networks that have it.

    Raises:
        UserError: no such network, or none for this size or with stochastic depth.
    """
    require_known(name)
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if _takes_size(name):
        options["img_size"] = img_size
    try:
        return _create(name, **options)
    except _REFUSED as error:
        depth = f", drop_path {drop_path:g}" * bool(drop_path)
        raise UserError(
            f"network {name} at {img_size[0]}x{img_size[1]}{depth}: timm does not build it so "
            f"({brief(error)}); choose another network, size or --model.drop_path 0"
        ) from error


def facts(name: str, img_size: tuple[int, int] = _REFERENCE) -> Facts:
    """Of the network for images of this size, without memory or time for its weights.

    Raises:
        UserError: no such network, none for this size, or one without one vector an image.
    """
    require_known(name)
    return _facts(name, tuple(img_size))


@lru_cache(maxsize=64)
def _facts(name: str, img_size: tuple[int, int]) -> Facts:
    with torch.device("meta"):
        network = build_timm(name, img_size).eval()
        images = torch.empty(2, 3, *img_size)
    try:
        with torch.no_grad():
            found = network.forward_features(images)
            feature = network.forward_head(found)
            channels, *grid = as_map(network, found).shape[1:]
    except _REFUSED as error:
        raise UserError(
            f"network {name} at {img_size[0]}x{img_size[1]}: cannot be used ({brief(error)})"
        ) from error
    if not isinstance(feature, Tensor) or feature.ndim != 2:
        raise UserError(f"network {name}: gives no single vector an image; choose another")
    return Facts(feature.shape[1], channels, tuple(grid))


def as_map(network: nn.Module, found: Tensor) -> Tensor:
    """What ``forward_features`` of a timm network gave, as a map (B, D, h, w).

    Raises:
        ValueError: it is no map.
    """
    if found.ndim == 4:
        last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
        return found.permute(0, 3, 1, 2) if last else found
    patches = getattr(network, "patch_embed", None)
    if found.ndim != 3 or not hasattr(patches, "grid_size"):
        raise ValueError("its last layer has no map")
    tokens = found[:, getattr(network, "num_prefix_tokens", 0) :]
    return tokens.transpose(1, 2).unflatten(2, tuple(patches.grid_size))


# What timm's constructors and layers raise of sizes and settings that they are not made for.
_REFUSED = (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, KeyError)


@lru_cache(maxsize=64)
def _takes_size(name: str) -> bool:
    """Whether a network is built for a size of images, as transformers are."""
    try:
        with torch.device("meta"):
            _create(name, img_size=_REFERENCE)
    except TypeError:
        return False
    except _REFUSED:
        return True
    return True


def _create(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name.removeprefix(PREFIX), num_classes=0, **options)
