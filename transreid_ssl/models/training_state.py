"""What a checkpoint of self-distillation holds: two networks with their heads, and a centre.

Layouts: DINO's and TransReID-SSL's (``student``, ``teacher``, ``dino_loss``), iBOT's and
PersonViT's (``ibot_loss``, a second last layer for patches, ``masked_embed``), PASS's (a head and a
centre for each of its tokens), all of them flat under ``state_dict`` as other programs write them,
and this package's own.
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.models.checkpoints import MASKED_EMBED, Checkpoint, bare_name, unwrap
from transreid_ssl.models.raw import plain_tensors, read_pickle

ROLES = ("student", "teacher")
_LOSSES = ("dino_loss", "ibot_loss")
_LOSS = re.compile(r"^(?:dino|ibot)_loss\.")


@dataclass
class TrainingState:
    """The state of a run of DINO or of what was built on it, under this package's names.

    Attributes:
        path: The file.
        backbones: "student" and "teacher", or the one of them that the file has.
        heads: Of each of them the weights of a ``DINOHead`` for the class token.
        center: Float32 (1, K), what the teacher's K logits are centred with; None: not in the file.
        center_name: What the file calls it.
        others: Tensors that are none of these, by their names in a flat state: ``student.``,
            ``teacher.`` or ``loss.``, then the file's own name without wrappers.
        aside: What else the file holds, by its name: the optimiser, the epoch…
        settings: What the file says of its program's settings; {} where it says nothing.
    """

    path: Path
    backbones: dict[str, Checkpoint]
    heads: dict[str, dict[str, Tensor]]
    center: Tensor | None = None
    center_name: str = ""
    others: dict[str, Tensor] = field(default_factory=dict)
    aside: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def format(self) -> str:
        return next(iter(self.backbones.values())).format

    def peek(self, prefix: str) -> dict[str, Tensor]:
        """Those of ``others`` whose names begin with ``prefix``, without it."""
        return {k.removeprefix(prefix): v for k, v in self.others.items() if k.startswith(prefix)}

    def take(self, prefix: str) -> dict[str, Tensor]:
        """Those of ``others`` whose names begin with ``prefix``, without it; they leave ``others``.

        So an objective with more parts takes what it has a place for: ``take("student.head.")``
        gives the patches' last layer of iBOT or the part tokens' heads of PASS.
        """
        found = [name for name in self.others if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.others.pop(name) for name in found}


def read_training_state(path: Path) -> TrainingState:
    """Read a training checkpoint of a known layout.

    Raises:
        UserError: no training checkpoint, one without heads, damaged, or of another method.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        raise _no_heads(path, "it holds one backbone")
    raw = read_pickle(path)
    if not isinstance(raw, Mapping):
        raise UserError(f"{path}: holds a {type(raw).__name__}; give the checkpoint of a training")
    flat, aside, settings = _flat(path, raw)
    roles = [role for role in ROLES if any(k.startswith(f"{role}.backbone.") for k in flat)]
    if not roles:
        raise _no_heads(path, "it holds no student and no teacher with a backbone")
    state = TrainingState(path, {role: unwrap(path, raw, role) for role in roles}, {})
    state.aside, state.settings = aside, settings
    for role in roles:
        found = {k.removeprefix(f"{role}.backbone.") for k in flat}
        for name in found & state.backbones[role].state.keys():
            del flat[f"{role}.backbone.{name}"]
        state.heads[role] = _take_head(flat, f"{role}.head.")
        if not state.heads[role]:
            raise _no_heads(path, f"its {role} has none that is DINO's")
        _refuse_other_head(path, role, flat)
    for name in ("center", "center_cls"):
        if state.center is None and f"loss.{name}" in flat:
            state.center, state.center_name = flat.pop(f"loss.{name}").float(), name
    state.others = flat
    return state


def _refuse_other_head(path: Path, role: str, flat: Mapping[str, Tensor]) -> None:
    """What else a head may hold changes its outputs, such as a norm of the logits."""
    for name in flat:
        known = any(re.fullmatch(pattern, name) for pattern in MEANINGS)
        if name.startswith(f"{role}.head.") and not known:
            raise _no_heads(path, f"{name} is in none of DINO's heads")


def _no_heads(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: no checkpoint of DINO with its heads ({reason}); give one, such as "
        "checkpoint.pth or checkpoints/step_….pt, or leave --init.heads out for the backbone alone"
    )


def _flat(
    path: Path, raw: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    """All tensors by ``student.…``, ``teacher.…``, ``loss.…``; other entries; the settings."""
    if isinstance(raw.get("objective"), Mapping):  # this package's
        return plain_tensors(path, raw["objective"]), _beside(raw, "objective"), {}
    parts = {role: raw[role] for role in ROLES if isinstance(raw.get(role), Mapping)}
    loss = next((key for key in _LOSSES if isinstance(raw.get(key), Mapping)), None)
    arguments = raw.get("args")
    settings = vars(arguments) if isinstance(arguments, argparse.Namespace) else {}
    if not parts:
        key = "state_dict" if isinstance(raw.get("state_dict"), Mapping) else ""
        tensors = plain_tensors(path, raw[key] if key else raw)
        flat = {_LOSS.sub("loss.", bare_name(name)): value for name, value in tensors.items()}
        return flat, _beside(raw, key, *tensors), settings
    flat = {
        f"{role}.{bare_name(name)}": value
        for role, part in parts.items()
        for name, value in plain_tensors(path, part).items()
    }
    if loss:
        flat |= {f"loss.{bare_name(k)}": v for k, v in plain_tensors(path, raw[loss]).items()}
    return flat, _beside(raw, *parts, *([loss] if loss else [])), settings


def _beside(raw: Mapping[str, Any], *names: str) -> list[str]:
    return [str(name) for name in raw if name not in names]


_HEAD = re.compile(
    r"(?:mlp|mlp_cls)\.(?:(?P<layer>\d+)\.)?(?P<of>weight|bias|running_mean|running_var|"
    r"num_batches_tracked)"
    r"|(?:last_layer|last_layer_cls)\.(?:weight_(?P<part>[gv])"
    r"|parametrizations\.weight\.original(?P<number>[01]))"
)


def head_of(flat: Mapping[str, Tensor], prefix: str, ending: str) -> dict[str, Tensor]:
    """The weights of a head by ``DINOHead``'s names, whose layers are called with an ``ending``."""
    named = {k.replace(f"{ending}.", ".", 1): v for k, v in flat.items() if f"{ending}." in k}
    return _take_head(named, prefix)


def _take_head(flat: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of a DINO head by ``DINOHead``'s names; they leave ``flat``.

    PASS's head of its class token is one. Its only layer may have no number, and newer versions of
    PyTorch give the parts of a normalised weight other names.
    """
    found = {}
    for name in [name for name in flat if name.startswith(prefix)]:
        match = _HEAD.fullmatch(name.removeprefix(prefix))
        if match is None:
            continue
        if match["of"]:
            target = f"mlp.{match['layer'] or 0}.{match['of']}"
        else:
            part = match["part"] or {"0": "g", "1": "v"}[match["number"]]
            target = f"last_layer.weight_{part}"
        found[target] = flat.pop(name)
    return found


def head_sizes(head: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The settings of the ``DINOHead`` that these weights are of, by the names of ``DINOConfig``.

    Raises:
        UserError: they are of no such head.
    """
    linear = [v for k, v in head.items() if re.fullmatch(r"mlp\.\d+\.weight", k) and v.ndim == 2]
    last = head.get("last_layer.weight_v")
    if not linear or last is None or last.ndim != 2:
        raise UserError(
            f"{path}: its heads are not DINO's (an MLP and a layer with normalised weights); "
            "leave --init.heads out for the backbone alone"
        )
    sizes: dict[str, Any] = {"out_dim": last.shape[0], "bottleneck_dim": last.shape[1]}
    sizes["head_layers"] = len(linear)
    if len(linear) > 1:
        sizes["hidden_dim"] = linear[0].shape[0]
    sizes["use_bn_in_head"] = any(name.endswith("running_mean") for name in head)
    return sizes


def widened(head: Mapping[str, Tensor], in_dim: int) -> dict[str, Tensor]:
    """The same head for features of ``in_dim`` values that begin with those it was made for.

    The new values have weights of 0, so that the logits are the same: PASS's class token is the
    first half of the feature of its networks here.
    """
    first = head["mlp.0.weight"]
    zeros = torch.zeros(first.shape[0], max(0, in_dim - first.shape[1]), dtype=first.dtype)
    return {**head, "mlp.0.weight": torch.cat((first, zeros), dim=1)}


MEANINGS = {
    rf"student\.backbone\.{MASKED_EMBED}": "what a masked patch is replaced by; no patch is masked",
    r"(student|teacher)\.head\.(last_layer2|mlp2|last_norm2)\..+": "the last layer for patches",
    r"loss\.center2": "the centre of the patches",
    r"(student|teacher)\.head\.(mlp|last_layer)_pt\d\..+": "the heads of the part tokens",
    r"loss\.center_pt\d": "the centres of the part tokens",
}
"""What is not taken, by the whole of its name in ``others``, and what it was for."""
