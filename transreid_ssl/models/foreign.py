"""Networks that cannot be read here, told by the names of their weights: better said than guessed.

Without this their files would be called damaged, which they are not.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from transreid_ssl.errors import UserError

_READ = (
    "a ViT of DINO, DINOv2 (ViT-S, B or L, by its authors or by timm), MoCo v3, timm, TransReID, "
    "cluster-contrast or PASS, or a ResNet"
)


def refuse_unsupported(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise ``UserError`` that names the network, if it is known and not supported.

    Args:
        path: of the file.
        state: its tensors by their names without wrappers.
    """
    for kind, is_it in _UNSUPPORTED.items():
        if is_it(state):
            raise UserError(f"{path}: holds {kind}, which is not supported; give {_READ}")


def _has(*endings: str) -> Callable[[Mapping[str, Tensor]], bool]:
    """Whether each of the endings is that of a weight's name."""
    return lambda state: all(any(name.endswith(end) for name in state) for end in endings)


def _is_dinov3(state: Mapping[str, Tensor]) -> bool:
    own = _has("rope_embed.periods")(state) or _has("storage_tokens")(state)
    timm = _has("reg_token", "blocks.0.gamma_1")(state)
    hub = _has("embeddings.register_tokens")(state) and not _has("position_embeddings")(state)
    return own or timm or hub


def _is_other_dinov2(state: Mapping[str, Tensor]) -> bool:
    """What is not read of DINOv2: transformers' names, ViT-g's gated MLP, blocks in chunks."""
    hub = _has("embeddings.mask_token", "layer_scale1.lambda1")(state)
    gated = _has("blocks.0.ls1.gamma", "blocks.0.mlp.w12.weight")(state)
    return hub or gated or _has("blocks.0.0.ls1.gamma")(state)


def _is_clip(state: Mapping[str, Tensor]) -> bool:
    timm = _has("norm_pre.weight", "patch_embed.proj.weight")(state)
    return _has("class_embedding")(state) or (timm and not _has("patch_embed.proj.bias")(state))


_UNSUPPORTED: dict[str, Callable[[Mapping[str, Tensor]], bool]] = {
    "a DINOv3 network (rotary positions, register tokens)": _is_dinov3,
    "a DINOv2 network in transformers' layout, in chunks of blocks, or ViT-g": _is_other_dinov2,
    "a CLIP network (a norm before its blocks, patches without a bias)": _is_clip,
    "a Swin transformer, as SOLIDER's": _has("relative_position_bias_table"),
}
