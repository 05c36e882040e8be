"""Loading and saving backbones: strict after an explicit renaming, nothing dropped unsaid."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path
from transreid_ssl.models.architectures import (
    Architecture,
    MGNArchitecture,
    TimmArchitecture,
    ViTArchitecture,
)
from transreid_ssl.models.build import Backbone, from_spec
from transreid_ssl.models.checkpoints import (
    MOCO_V3_TRAINING,
    Checkpoint,
    Recognise,
    read_checkpoint,
)
from transreid_ssl.models.detect import (
    assumption,
    detect_architecture,
    detect_name,
    detect_size,
    detect_spec,
)
from transreid_ssl.models.hub import find_weights, published
from transreid_ssl.models.jpm import JPMViT, with_local_branch
from transreid_ssl.models.load_report import LoadReport, grouped
from transreid_ssl.models.mgn import NEW_LAYERS, branched
from transreid_ssl.models.positions import num_places, resample_positions
from transreid_ssl.models.raw import CHECKSUM, HEADER, checksum, read_header
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.timm_network import TIMM_WEIGHTS, TimmNetwork, of_timm
from transreid_ssl.models.vit import ReIDViT

# Weights that a network may have or lack without being another network; the counters of batch
# norms are not in files of early PyTorch.
_OPTIONAL = re.compile(r"(sie_embed$|bottleneck(_\d)?\.|head\.|readout\.|.+\.num_batches_tracked$)")
# Weights that a network may begin with anew; a file that has them is for a network that has them.
_ADDED = {"reg_token": "registers", "token_norm": "token_norm"}
# Weights that no network here ignores: unknown ones among them mean a different computation.
_ESSENTIAL = re.compile(
    r"(net|blocks|b2|patch_embed|norm|norm_pre|token_norm|conv1|bn1|layer\d|branches|NL_\d)\.|bottleneck_pt\d\.|\w+_(token\d?|embed|pos)$"
)


def load_weights(
    model: Backbone, path: str | Path, *, which: str = "teacher", resampling: str = "bilinear"
) -> LoadReport:
    """Load a file of any known format, or a hub repository, into a backbone.

    Position embeddings of another patch grid are resampled; class heads and camera embeddings of
    other sizes are left aside, and reported. Weights of a ResNet start each branch of an MGN over
    it, those of a plain ViT both copies of the last block of one with a jigsaw patch module. On an
    error the model is untouched.

    Args:
        which: ``teacher`` or ``student``, of a DINO training checkpoint.
        resampling: a mode of ``resample_positions``; the papers fine-tune after ``bilinear``.

    Raises:
        UserError: unreadable file, another architecture, or weights lacking.
    """
    recognise = partial(of_timm, model) if isinstance(model, TimmNetwork) else None
    return load_read(model, _read(path, which, recognise), resampling)


def load_backbone(
    source: str | Path, *, which: str = "teacher", resampling: str = "bilinear", **overrides: Any
) -> Backbone:
    """A backbone as its file describes it, in evaluation mode, with ``.spec`` and ``.load_report``.

    Args:
        source: a weights file of any known format, a folder, a Hugging Face id, or a name of timm
            (see ``find_weights``). What timm tells of weights beside them is believed.
        overrides: fields of ``BackboneSpec`` to change: ``img_size=(384, 128)``, ``gem=True``…

    Raises:
        UserError: nothing there, unreadable, or of no network known here.
    """
    checkpoint = _read(source, which)
    try:
        spec = detect_spec(checkpoint).changed(**overrides)
    except TypeError as error:
        raise UserError(f"{', '.join(overrides)}: no such setting of a backbone") from error
    model = from_spec(spec)
    taken = assumption(checkpoint) if "mean" not in overrides else None
    if taken is not None:
        checkpoint = replace(checkpoint, notes=[*checkpoint.notes, taken])
    model.load_report = load_read(model, checkpoint, resampling)
    return model.eval()


def read_spec(source: str | Path) -> BackboneSpec:
    """The spec of a weights file: its header, or for other formats what its shapes tell."""
    path = find_weights(source)
    spec = read_header(path) if path.suffix == ".safetensors" and path.is_file() else None
    return spec or detect_spec(_as_published(read_checkpoint(path), source))


def _read(source: str | Path, which: str, recognise: Recognise | None = None) -> Checkpoint:
    """Read a file; where it has a header, see that its weights are those of that very network.

    So a damaged header shows before a network of its sizes is built, whatever these are.
    """
    checkpoint = read_checkpoint(find_weights(source), which, recognise)
    if checkpoint.spec is None:
        return _as_published(checkpoint, source)
    for name, shape in _shapes(checkpoint.spec).items():
        found = checkpoint.state.get(name)
        if found is None and not name.endswith("num_batches_tracked"):
            raise UserError(f"{checkpoint.path}: lacks {name}, which its header speaks of; damaged")
        if found is not None and found.shape != shape:
            raise UserError(
                f"{checkpoint.path}: {name} has the shape {tuple(found.shape)}, and by its header "
                f"should have {tuple(shape)}; it is damaged: download or write it again"
            )
    return checkpoint


def _as_published(checkpoint: Checkpoint, source: str | Path) -> Checkpoint:
    """A checkpoint without a header, with what is told beside the file."""
    told = published(source)
    statistics = checkpoint.statistics or told.statistics
    return replace(
        checkpoint, statistics=statistics, interpolation=told.interpolation,
        published=told.provenance,
    )  # fmt: skip


def _shapes(spec: BackboneSpec) -> dict[str, torch.Size]:
    """The shape of each weight of the network of a spec, which is not built for it."""
    return _shapes_of(replace(spec, provenance={}, calibration=None).to_json())


@lru_cache(maxsize=8)
def _shapes_of(header: str) -> dict[str, torch.Size]:
    """Remembered, as a run reads and writes weights of one network many times."""
    with torch.device("meta"):
        network = from_spec(BackboneSpec.from_json(header))
    return {name: value.shape for name, value in network.state_dict().items()}


def save_backbone(
    path: str | Path, model: Backbone | Mapping[str, Tensor], spec: BackboneSpec | None = None
) -> None:
    """Write a backbone as safetensors, atomically, with its spec in the header.

    Args:
        model: the backbone, not a wrapper around it, or its state dict.
        spec: the header; the model's own when None.

    Raises:
        ValueError: the weights are not those of the network that the spec names.
        UserError: the file cannot be written, or is not named ``.safetensors``.
    """
    if Path(path).suffix != ".safetensors":
        raise UserError(f"{path}: weights are written as safetensors; name it ….safetensors")
    if isinstance(model, nn.Module):
        spec, state = spec or model.spec, model.state_dict()
    else:
        state = model
    assert spec is not None, "a state dict alone does not tell its network"
    expected = _shapes(spec).items()
    differing = {name: value.shape for name, value in state.items()}.items() ^ expected
    if differing:
        names = grouped(sorted({name for name, _ in differing}))
        raise ValueError(f"these weights are not of {spec}: {names} differ")
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    text = spec.to_json()
    metadata = {"format": "pt", HEADER: text, CHECKSUM: checksum(tensors, text)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata))


def network_checksum(model: nn.Module) -> str:
    """CRC-32, 8 hex digits, of all weights of a network, on whatever device."""
    return checksum({name: value.cpu() for name, value in model.state_dict().items()}, "")


def load_read(model: Backbone, checkpoint: Checkpoint, resampling: str = "bilinear") -> LoadReport:
    """``load_weights`` of what was read from a file before."""
    own = model.state_dict()
    starts_branches = _check_architecture(model, checkpoint)
    if starts_branches:
        checkpoint = replace(checkpoint, state=branched(checkpoint.state))
    if isinstance(model, JPMViT):
        copied = with_local_branch(checkpoint.state, len(model.blocks))
        checkpoint = replace(checkpoint, state=copied)
    state, dropped, resized = dict(checkpoint.state), list(checkpoint.dropped), []
    for name in [name for name in state if _OPTIONAL.match(name)]:
        if name not in own or own[name].shape != state[name].shape:
            dropped.append(name)
            del state[name]
    if "pos_embed" in state and isinstance(model, ReIDViT):
        old_grid, new_grid = _grid(checkpoint, model), model.patch_embed.grid_size
        if old_grid != new_grid:
            state["pos_embed"] = resample_positions(
                state["pos_embed"], old_grid, new_grid, resampling
            )
            sizes = (f"{rows}x{columns}" for rows, columns in (old_grid, new_grid))
            resized.append(f"pos_embed from {' to '.join(sizes)} patches ({resampling})")
    unexpected = [name for name in state if name not in own]
    missing = [name for name in own if name not in state]
    needed = [name for name in missing if name.partition(".")[0] not in _ADDED]
    needed = [name for name in needed if not (starts_branches and NEW_LAYERS.match(name))]
    _check_complete(checkpoint, own, state, needed, unexpected)
    matched = [name for name in own if name in state]
    model.load_state_dict({**own, **{name: state[name] for name in matched}})
    return LoadReport(
        str(checkpoint.path),
        checkpoint.format,
        *map(tuple, (matched, missing, unexpected, resized, dropped, checkpoint.notes)),
    )


def _check_architecture(model: Backbone, checkpoint: Checkpoint) -> bool:
    """Whether these are weights of the ResNet below this MGN; others must be of this network."""
    path, here = checkpoint.path, model.spec.architecture
    there = _architecture_of(checkpoint, here)
    if isinstance(here, MGNArchitecture) and there == here.trunk:
        return True
    if there != here:
        raise UserError(
            f"{path}: of a network with {there}, but this network has {here}; "
            f"build {_name_of(there, path)}, or give other weights"
        )
    _check_heads(model, checkpoint)
    _check_tokens(model, checkpoint)
    return False


def _check_tokens(model: Backbone, checkpoint: Checkpoint) -> None:
    """Registers and the norm on tokens change what all other weights compute."""
    if checkpoint.spec is None:
        return
    for layer, option in _ADDED.items():
        there, here = (getattr(spec, option) for spec in (checkpoint.spec, model.spec))
        if there != here and any(name.partition(".")[0] == layer for name in checkpoint.state):
            raise UserError(
                f"{checkpoint.path}: of a network with {option} {there}, but this network has "
                f"{here}; give --model.{option} {there}"
            )


def _name_of(found: Architecture, path: Path) -> str:
    return found.name if isinstance(found, TimmArchitecture) else detect_name(found, path)


def _architecture_of(checkpoint: Checkpoint, here: Architecture) -> Architecture:
    """By its shapes; of a network of timm by its header, or by the network it is loaded into."""
    if checkpoint.spec is not None and isinstance(checkpoint.spec.architecture, TimmArchitecture):
        return checkpoint.spec.architecture
    if checkpoint.format == TIMM_WEIGHTS:
        return here
    return detect_architecture(checkpoint.state, checkpoint.path)


def _check_heads(model: Backbone, checkpoint: Checkpoint) -> None:
    """Shapes do not tell into how many heads attention divides its vectors; a header does."""
    told = checkpoint.spec is not None or checkpoint.format == MOCO_V3_TRAINING
    sizes = model.spec.architecture
    if not told or not isinstance(sizes, ViTArchitecture):
        return
    named = detect_spec(checkpoint)
    there, here = getattr(named.architecture, "num_heads", None), sizes.num_heads
    if there != here:
        raise UserError(
            f"{checkpoint.path}: of a network with {there} heads, but this network has {here} and "
            f"would make something else of these weights; build {named.name}"
        )


def _check_complete(
    checkpoint: Checkpoint,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: Iterable[str],
    unexpected: Iterable[str],
) -> None:
    """Whatever changes what the network computes is an error, and not just reported."""
    lacking = [n for n in missing if not _OPTIONAL.match(n) or n.startswith("readout.")]
    foreign = [name for name in unexpected if _ESSENTIAL.match(name)]
    differing = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    for complaint, names in (
        ("lacks weights of the network", lacking),
        ("has weights that the network has no place for", foreign),
        ("has weights of other shapes", differing),
    ):
        if names:
            raise UserError(
                f"{checkpoint.path}: {complaint} ({', '.join(names[:3])}"
                f"{', …' if len(names) > 3 else ''}); it is damaged or of another network"
            )


def _grid(checkpoint: Checkpoint, model: ReIDViT) -> tuple[int, int]:
    """The patch grid that the checkpoint's position embeddings are of."""
    if checkpoint.spec is not None:
        return checkpoint.spec.grid
    num_patches = num_places(checkpoint.state)
    if num_patches == model.patch_embed.num_patches:
        return model.patch_embed.grid_size
    if detect_size(num_patches, model.patch_embed.patch_size[0]) is None:
        raise UserError(
            f"{checkpoint.path}: {num_patches} position embeddings are of no usual image size; "
            f"build the network for its size, then change it with set_input_size"
        )
    return detect_spec(checkpoint).grid
