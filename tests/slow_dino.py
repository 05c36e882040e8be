"""DINO's loss of a saved state by plain formulas over its tensors, one image after the other.

Of none of the package's networks, heads and losses: only positions of the size that the state was
made for, and no stochastic depth.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def linear(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def patches(image: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Embeddings (N, D) of the patches of a normalised image (3, H, W), row by row."""
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    size = weight.shape[-1]
    found = [
        (weight * image[:, row : row + size, column : column + size]).sum((1, 2, 3)) + bias
        for row in range(0, image.shape[1], size)
        for column in range(0, image.shape[2], size)
    ]
    return torch.stack(found)


def tokens(
    image: Tensor, state: Mapping[str, Tensor], heads: int, leading: Sequence[str]
) -> Tensor:
    """Tokens (T, D) after the last norm; ``leading`` names those before the patches, after the
    class token, as PASS has them."""
    embedded = patches(image, state)
    first = [state["cls_token"][0], *(state[name][0] for name in leading)]
    x = torch.cat([*first, embedded])
    if leading:
        places = [state["cls_pos"][0]] + [
            state[name.replace("part_token", "part") + "_pos"][0] for name in leading
        ]
        x = x + torch.cat([*places, state["pos_embed"][0]])
    else:
        x = x + state["pos_embed"][0]
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for block in range(depth):
        own = {
            name.removeprefix(f"blocks.{block}."): value
            for name, value in state.items()
            if name.startswith(f"blocks.{block}.")
        }
        y = layer_norm(x, own["norm1.weight"], own["norm1.bias"])
        queries, keys, values = linear(y, own, "attn.qkv").chunk(3, dim=1)
        seen = []
        for q, k, v in zip(*(part.chunk(heads, dim=1) for part in (queries, keys, values))):
            weights = (q @ k.T / math.sqrt(q.shape[1])).exp()
            seen.append(weights / weights.sum(1, keepdim=True) @ v)
        x = x + linear(torch.cat(seen, dim=1), own, "attn.proj")
        y = layer_norm(x, own["norm2.weight"], own["norm2.bias"])
        x = x + linear(gelu(linear(y, own, "mlp.fc1")), own, "mlp.fc2")
    return layer_norm(x, state["norm.weight"], state["norm.bias"])


def logits(feature: Tensor, head: Mapping[str, Tensor]) -> Tensor:
    """Of a head of three layers: (D,) to (K,)."""
    x = gelu(linear(feature, head, "mlp.0"))
    x = linear(gelu(linear(x, head, "mlp.2")), head, "mlp.4")
    x = x / x.norm()
    rows = head["last_layer.weight_v"]
    rows = head["last_layer.weight_g"] * rows / rows.norm(dim=1, keepdim=True)
    return rows @ x


def loss(
    views: Sequence[Tensor],
    student: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    teacher: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    center: Tensor,
    *,
    heads: int,
    statistics: tuple[Sequence[float], Sequence[float]],
    leading: Sequence[str] = (),
    student_temp: float = 0.1,
    teacher_temp: float = 0.04,
) -> float:
    """The mean cross-entropy of pairs of views, all of which both networks see.

    Args:
        views: uint8 (B, 3, H, W) each.
        student, teacher: Backbone and head, of the class token.
        center: (1, K).
        heads: Of attention.
    """
    mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
    terms = []
    for images in zip(*views):
        inputs = [(image / 255 - mean) / std for image in images]
        targets, outputs = [], []
        for image in inputs:
            for found, (backbone, head) in ((targets, teacher), (outputs, student)):
                found.append(logits(tokens(image, backbone, heads, leading)[0], head))
        for i, target in enumerate(targets):
            wanted = ((target - center[0]) / teacher_temp).softmax(0)
            for j, output in enumerate(outputs):
                if i != j:
                    terms.append(-(wanted * (output / student_temp).log_softmax(0)).sum())
    return float(torch.stack(terms).mean())
