"""Reading weights of any known format into one form, safely.

Formats: safetensors (ours, or timm's); our training checkpoints; the pickles that TransReID-SSL
and PASS publish: a DINO training checkpoint, the backbone converted from it, a fine-tuned network
(TransReID's with a jigsaw patch module too), a cluster-contrast checkpoint; training checkpoints of
iBOT and PersonViT; DINOv2's networks; ImageNet ViTs of timm and DINO; MoCo v3's networks;
LUPerson's ResNets: MoCo training snapshots, plain files, fast-reid networks and its MGN; and
ImageNet ResNets of torchvision and timm. What a training checkpoint holds beside its backbones is
read by ``training_state``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.models import fast_reid
from transreid_ssl.models.foreign import refuse_unsupported
from transreid_ssl.models.jpm import own_names
from transreid_ssl.models.positions import is_square, num_places
from transreid_ssl.models.raw import parse_spec, plain_tensors, read_pickle, read_safetensors
from transreid_ssl.models.registers import own_layout
from transreid_ssl.models.spec import BackboneSpec, Interpolation
from transreid_ssl.models.statistics import Statistics, stored_statistics

OURS = "transreid_ssl safetensors"
OWN_CHECKPOINT = "transreid_ssl training checkpoint"
DINO_TRAINING = "DINO training checkpoint"
DINO_BACKBONE = "converted DINO backbone"
IBOT_TRAINING = "iBOT training checkpoint"
DINOV2 = "DINOv2 network"
PERSONVIT_TRAINING = "iBOT training checkpoint on a 2:1 grid, as PersonViT's"
FINETUNED = "TransReID fine-tuned network"
CLUSTER_CONTRAST = "cluster-contrast checkpoint"
IMAGENET_VIT = "ImageNet ViT"
MOCO_TRAINING = "MoCo training checkpoint"
MOCO_V3_TRAINING = "MoCo v3 training checkpoint"
FAST_REID = "fast-reid network"
FAST_REID_MGN = "fast-reid MGN"
IMAGENET_RESNET = "ImageNet ResNet"
CLASSIFIER_RESNET = "ResNet with a classifier of other classes than ImageNet's"
PLAIN_RESNET = "ResNet without a classifier"


@dataclass
class Checkpoint:
    """The weights of one backbone, under this package's names.

    Attributes:
        state: name -> tensor; ``head.*`` and ``bottleneck.*`` are here too where the file has them.
        dropped: what the file holds beside, by its name in the file.
        spec: the header, where the file has ours.
        statistics: what images were normalised with, where another program says it.
        interpolation: "linear" or "cubic", how they were resized, where that is told.
        published: ``license`` and ``repository``, where those who published the file tell them.
        notes: sentences on how it was read, where that could be a surprise.
    """

    path: Path
    format: str
    state: dict[str, Tensor]
    dropped: list[str] = field(default_factory=list)
    spec: BackboneSpec | None = None
    statistics: Statistics | None = None
    interpolation: Interpolation | None = None
    published: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Recognise = Callable[[Path, dict[str, Tensor], list[str]], Checkpoint]
"""Makes a checkpoint of a file, of its tensors by their names there, and of what else it holds."""


def read_checkpoint(
    path: Path, which: str = "teacher", recognise: Recognise | None = None
) -> Checkpoint:
    """Read a weights file of any known format.

    Args:
        which: ``teacher`` or ``student``, of a training checkpoint that has both. Of MoCo's two
            encoders the query encoder is read, as its authors do.
        recognise: what another program's file is taken for; None: what its names tell.

    Raises:
        UserError: no such file, not a weights file, damaged, or holding what must not be unpickled.
    """
    if which not in ("teacher", "student"):
        raise UserError(f"which {which!r}: choose teacher or student")
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        raw, spec = read_safetensors(path)
        if spec is not None:
            return Checkpoint(path, OURS, plain_tensors(path, raw), spec=spec)
    else:
        raw = read_pickle(path)
    return unwrap(path, raw, which, recognise)


def unwrap(path: Path, raw: Any, which: str, recognise: Recognise | None = None) -> Checkpoint:
    """Find the network's tensors in what the file holds, and name the format by where they were."""
    if not isinstance(raw, Mapping):
        raise UserError(f"{path}: holds a {type(raw).__name__}, not the weights of a network")
    if isinstance(raw.get("objective"), Mapping):
        return _unwrap_own(path, raw, which)
    for key in (which, "state_dict", "model"):
        if isinstance(raw.get(key), Mapping):
            state, aside = raw[key], [str(other) for other in raw if other != key]
            break
    else:
        key, state, aside = "", raw, []
    tensors = plain_tensors(path, state)
    aside += [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if recognise is not None:
        return recognise(path, tensors, aside)
    return _recognise(path, tensors, aside, key, which)


def _recognise(
    path: Path, tensors: Mapping[str, Tensor], aside: list[str], key: str, which: str
) -> Checkpoint:
    """The network that these tensors, found under ``key``, are of, told by their names."""
    names = {name: bare_name(name) for name in tensors}
    bare_tensors = {bare: tensors[name] for name, bare in names.items()}
    refuse_unsupported(path, bare_tensors)
    mgn = fast_reid.is_mgn(names.values())
    prefix = "" if mgn else _prefix(path, names, which)
    own = names if mgn else own_names(names, prefix)
    renamed: dict[str, Tensor] = {}
    for name, bare in own.items():
        target = fast_reid.mgn_name(bare) if mgn else _rename(bare, prefix)
        if target is None or target in renamed:
            aside.append(name)
        else:
            renamed[target] = tensors[name]
    if "blocks.0.ls1.gamma" in renamed:
        renamed = own_layout(renamed)
    _check_dimensions(path, renamed)
    statistics = stored_statistics(bare_tensors)
    if mgn:
        renamed = fast_reid.with_linear_reductions(renamed)
        return Checkpoint(path, FAST_REID_MGN, renamed, aside, statistics=statistics)
    kind = _format(key, prefix, renamed, bare_tensors)
    notes = [JPM_NOTE] if own != names else []
    return Checkpoint(path, kind, renamed, aside, statistics=statistics, notes=notes)


JPM_NOTE = (
    "the last block and norm are those that the file calls b1, which its program uses; copies of "
    "them in its base, which it does not use, are left aside"
)
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|model)\.)+")
"""What DistributedDataParallel, torch.compile and other programs put before every name."""


def bare_name(name: str) -> str:
    """A weight's name without such wrappers."""
    return _WRAPPERS.sub("", name)


_DIMENSIONS = {
    "cls_token": 3, "pos_embed": 3, "sie_embed": 3, "patch_embed.proj.weight": 4,
    "patch_embed.conv.0.weight": 4, "conv1.weight": 4, "branches.0.reductions.0.0.weight": 2,
    **{f"{branch}layer{stage}.0.conv1.weight": 4
       for branch in ("", "branches.0.") for stage in range(1, 5)},
}  # fmt: skip
"""Of the weights by whose shapes networks are told apart."""


def _check_dimensions(path: Path, state: Mapping[str, Tensor]) -> None:
    for name in state.keys() & _DIMENSIONS.keys():
        shape, expected = tuple(state[name].shape), _DIMENSIONS[name]
        mapped = name.startswith("branches.0.reductions") and len(shape) == 4  # 1x1 convolutions
        if not all(shape) or (len(shape) != expected and not mapped):
            raise UserError(
                f"{path}: {name} has the shape {shape}, and should have {expected} dimensions, "
                "none of 0; it is damaged or of another network"
            )


_PREFIXES = ("backbone.", "base.", "encoder_q.", "base_encoder.", "momentum_encoder.", "")
_ROLES = ("teacher.", "student.")


def _prefix(path: Path, names: Mapping[str, str], which: str) -> str:
    """What the names of the network begin with; ``names`` maps those of the file to bare ones."""
    first = ("cls_token", "conv1.weight")  # of a transformer, of a ResNet
    prefixes = (*_PREFIXES, f"{which}.backbone.", f"{which}.")
    found = [p for p in prefixes if any(p + name in names.values() for name in first)]
    if not found:
        shown = ", ".join(list(names)[:3]) or "no tensors"
        raise UserError(
            f"{path}: no vision transformer and no ResNet in it (it holds {shown}); give a "
            "checkpoint of DINO, TransReID, cluster-contrast, MoCo, fast-reid, torchvision or timm"
        )
    return found[0]


def _unwrap_own(path: Path, raw: Mapping[str, Any], which: str) -> Checkpoint:
    """A checkpoint of this package's training loop, which says where its backbones are."""
    state, prefixes = plain_tensors(path, raw["objective"]), raw.get("backbones")
    prefixes = prefixes if isinstance(prefixes, Mapping) else {}
    prefix = prefixes.get(which, prefixes.get("kept")) or ""
    prefix = prefix if isinstance(prefix, str) else ""
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not prefix or not own or not raw.get("spec"):
        raise UserError(f"{path}: a checkpoint without a backbone in it; give another file")
    aside = [k for k in state if not k.startswith(prefix)]
    aside += [str(other) for other in raw if other != "objective"]
    return Checkpoint(path, OWN_CHECKPOINT, own, aside, parse_spec(path, raw["spec"]))


MASKED_EMBED = "masked_embed"
"""What iBOT's student sees in place of a masked patch; nothing is masked in a backbone's use."""


def _rename(name: str, prefix: str) -> str | None:
    """This package's name for a weight; None for what belongs to no backbone."""
    neck = re.fullmatch(r"(?:bottleneck|feat_bn)(_\d)?\.(.+)", name)
    if neck:
        return f"bottleneck{neck[1] or ''}.{neck[2]}"
    if not name.startswith(prefix):
        return None
    name = name.removeprefix(prefix)
    if re.match(r"(fc|pre_logits|classifier\w*|head_dist|gap|feat)\.", name):
        return None
    if name in (MASKED_EMBED, "mask_token"):
        return None
    if prefix and name.startswith("head."):
        return None
    return name


def _format(
    wrapper: str, prefix: str, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> str:
    """The format, told from where the weights ``state`` were among all ``tensors``."""
    if "blocks.0.ls1.gamma" in state:
        return DINOV2
    if wrapper in ("teacher", "student") or prefix.startswith(_ROLES):
        if not any(re.search(r"(\bmasked_embed|\blast_layer2\..+)$", name) for name in tensors):
            return DINO_TRAINING
        return IBOT_TRAINING if is_square(num_places(state)) else PERSONVIT_TRAINING
    if prefix in ("base_encoder.", "momentum_encoder."):
        return MOCO_V3_TRAINING
    if "cls_token" not in state:
        return _resnet_format(prefix, tensors)
    if wrapper == "state_dict" and (prefix == "base." or "bottleneck.weight" in state):
        return CLUSTER_CONTRAST
    if prefix == "base.":
        return FINETUNED
    if prefix == "backbone.":
        return DINO_BACKBONE
    if "bottleneck.weight" in state:
        return CLUSTER_CONTRAST
    square = is_square(num_places(state))
    return IMAGENET_VIT if wrapper or square or "head.weight" in state else DINO_BACKBONE


def _resnet_format(prefix: str, tensors: Mapping[str, Tensor]) -> str:
    if prefix:
        by_prefix = {"encoder_q.": MOCO_TRAINING, "backbone.": FAST_REID, "base.": FINETUNED}
        return by_prefix[prefix]
    classifier = tensors.get("fc.weight")
    if classifier is None or classifier.ndim != 2 or len(classifier) == 128:  # MoCo's projection
        return PLAIN_RESNET
    return IMAGENET_RESNET if len(classifier) == 1000 else CLASSIFIER_RESNET
