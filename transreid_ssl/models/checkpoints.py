"""Reading weights of any known format into one form, safely.

Formats: safetensors (ours, or timm's); our training checkpoints; the pickles that TransReID-SSL
and PASS publish: a DINO training checkpoint, the backbone converted from it, a fine-tuned network
(TransReID's with a jigsaw patch module too), a cluster-contrast checkpoint; ImageNet ViTs of timm
and DINO; LUPerson's ResNets: MoCo training snapshots, plain files, fast-reid networks and its MGN;
and ImageNet ResNets of torchvision and timm.
"""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.models import fast_reid
from transreid_ssl.models.jpm import own_names
from transreid_ssl.models.positions import num_places
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.statistics import Statistics, stored_statistics

HEADER = "transreid_ssl"
"""The key of the spec in the metadata of our safetensors files."""

OURS = "transreid_ssl safetensors"
OWN_CHECKPOINT = "transreid_ssl training checkpoint"
DINO_TRAINING = "DINO training checkpoint"
DINO_BACKBONE = "converted DINO backbone"
FINETUNED = "TransReID fine-tuned network"
CLUSTER_CONTRAST = "cluster-contrast checkpoint"
IMAGENET_VIT = "ImageNet ViT"
MOCO_TRAINING = "MoCo training checkpoint"
FAST_REID = "fast-reid network"
FAST_REID_MGN = "fast-reid MGN"
IMAGENET_RESNET = "ImageNet ResNet"
PLAIN_RESNET = "ResNet without a classifier"

# The function that a pickled NumPy number names; where it lives depends on NumPy's version.
_SCALAR = np.float64(0).__reduce__()[0]
# What published checkpoints hold beside tensors, and nothing that can run code. Files written with
# NumPy 1 name the same functions differently than those of NumPy 2.
_SAFE_GLOBALS = [
    argparse.Namespace,
    np.dtype,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    *sorted({type(np.dtype(kind)) for kind in "?bhilBHILefd"}, key=str),
]


@dataclass
class Checkpoint:
    """The weights of one backbone, under this package's names.

    Attributes:
        state: name -> tensor; ``head.*`` and ``bottleneck.*`` are here too where the file has them.
        dropped: what the file holds beside, by its name in the file.
        spec: the header, where the file has ours.
        statistics: what images were normalised with, where another program's file says it.
    """

    path: Path
    format: str
    state: dict[str, Tensor]
    dropped: list[str] = field(default_factory=list)
    spec: BackboneSpec | None = None
    statistics: Statistics | None = None


def read_checkpoint(path: Path, which: str = "teacher") -> Checkpoint:
    """Read a weights file of any known format.

    Args:
        which: ``teacher`` or ``student``, of a training checkpoint that has both. Of MoCo's two
            encoders the query encoder is read, as its authors do.

    Raises:
        UserError: no such file, not a weights file, damaged, or holding what must not be unpickled.
    """
    if which not in ("teacher", "student"):
        raise UserError(f"which {which!r}: choose teacher or student")
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        spec = read_header(path)
        try:
            raw: Any = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise _damaged(path, error) from error
        if spec is not None:
            return Checkpoint(path, OURS, raw, spec=spec)
    else:
        raw = _unpickle(path)
    return _unwrap(path, raw, which)


def read_header(path: Path) -> BackboneSpec | None:
    """The spec in the header of a safetensors file, without reading its tensors; None without one.

    Raises:
        UserError: a damaged file, or a header that this version cannot read.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if HEADER not in metadata:
        return None
    try:
        return BackboneSpec.from_json(metadata[HEADER])
    except (ValueError, TypeError, UserError) as error:
        raise UserError(
            f"{path}: its header cannot be read ({error}); it may be of a newer version: upgrade"
        ) from error


def _unpickle(path: Path) -> Any:
    """``torch.load`` of tensors, plain containers and the classes listed above, only."""
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            # A mapped file costs no reading of what is not used: half of it is optimizer state.
            mapped = zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise _damaged(path, ValueError("not a file of torch.save")) from error
        raise UserError(
            f"{path}: holds a {found[1]}, which is refused because unpickling it could run code; "
            "save only its tensors, with the program that wrote it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    reason = next(iter(str(error).splitlines()), "")[:80] or type(error).__name__
    return UserError(
        f"{path}: not a weights file, or damaged ({reason}); download or write it again"
    )


def _unwrap(path: Path, raw: Any, which: str) -> Checkpoint:
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
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    aside += [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    names = {name: name.removeprefix("module.") for name in tensors}
    mgn = fast_reid.is_mgn(names.values())
    prefix = "" if mgn else _prefix(path, names)
    renamed: dict[str, Tensor] = {}
    for name, bare in (names if mgn else own_names(names, prefix)).items():
        target = fast_reid.mgn_name(bare) if mgn else _rename(bare, prefix)
        if target is None or target in renamed:
            aside.append(name)
        else:
            renamed[target] = tensors[name]
    bare_tensors = {bare: tensors[name] for name, bare in names.items()}
    statistics = stored_statistics(bare_tensors)
    if mgn:
        renamed = fast_reid.with_linear_reductions(renamed)
        return Checkpoint(path, FAST_REID_MGN, renamed, aside, statistics=statistics)
    kind = _format(key, prefix, renamed, bare_tensors)
    return Checkpoint(path, kind, renamed, aside, statistics=statistics)


_PREFIXES = ("backbone.", "base.", "encoder_q.", "")


def _prefix(path: Path, names: Mapping[str, str]) -> str:
    """What the names of the network begin with; ``names`` maps those of the file to bare ones."""
    first = ("cls_token", "conv1.weight")  # of a transformer, of a ResNet
    found = [p for p in _PREFIXES if any(p + name in names.values() for name in first)]
    if not found:
        shown = ", ".join(list(names)[:3]) or "no tensors"
        raise UserError(
            f"{path}: no vision transformer and no ResNet in it (it holds {shown}); give a "
            "checkpoint of DINO, TransReID, cluster-contrast, MoCo, fast-reid, torchvision or timm"
        )
    return found[0]


def _unwrap_own(path: Path, raw: Mapping[str, Any], which: str) -> Checkpoint:
    """A checkpoint of this package's training loop, which says where its backbones are."""
    state, prefixes = raw["objective"], raw.get("backbones") or {}
    prefix = prefixes.get(which, prefixes.get("kept", ""))
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not prefix or not own or not raw.get("spec"):
        raise UserError(f"{path}: a checkpoint without a backbone in it; give another file")
    aside = [k for k in state if not k.startswith(prefix)]
    aside += [str(other) for other in raw if other != "objective"]
    return Checkpoint(path, OWN_CHECKPOINT, own, aside, BackboneSpec.from_json(raw["spec"]))


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
    if prefix and name.startswith("head."):
        return None
    return name


def _format(
    wrapper: str, prefix: str, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> str:
    """The format, told from where the weights ``state`` were among all ``tensors``."""
    if wrapper in ("teacher", "student"):
        return DINO_TRAINING
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
    num_patches = num_places(state)
    square = round(num_patches**0.5) ** 2 == num_patches
    return IMAGENET_VIT if wrapper or square or "head.weight" in state else DINO_BACKBONE


def _resnet_format(prefix: str, tensors: Mapping[str, Tensor]) -> str:
    if prefix:
        by_prefix = {"encoder_q.": MOCO_TRAINING, "backbone.": FAST_REID, "base.": FINETUNED}
        return by_prefix[prefix]
    classifier = tensors.get("fc.weight")
    of_imagenet = classifier is not None and classifier.shape[0] == 1000
    return IMAGENET_RESNET if of_imagenet else PLAIN_RESNET
