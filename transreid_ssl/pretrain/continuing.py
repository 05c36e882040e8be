"""Going on from a checkpoint of DINO, of a program built on it, or of this package, on other crops.

Weights, heads and centre are those that were saved, so that the first loss is that of the saved
state; the optimiser and all schedules begin anew.
"""

import os
import re
from collections.abc import Collection
from typing import Any

from transreid_ssl.command import spelled
from transreid_ssl.errors import UserError
from transreid_ssl.models import STATISTICS, Statistics, find_weights
from transreid_ssl.models.detect import assumption, detect_spec
from transreid_ssl.models.training_state import (
    MEANINGS,
    TrainingState,
    head_sizes,
    read_training_state,
    widened,
)
from transreid_ssl.models.weights import load_read
from transreid_ssl.pretrain.continuing_additions import both_networks, load_additions, load_head
from transreid_ssl.pretrain.dino import DINO
from transreid_ssl.pretrain.networks import PatchNetwork
from transreid_ssl.pretrain.own import Chosen
from transreid_ssl.training.config import as_plain, as_typed, flat
from transreid_ssl.training.health import all_finite
from transreid_ssl.training.runfolder import RunFolder, goes_on

_NAMES = {statistics: name for name, statistics in STATISTICS.items()}
TAKEN_OVER = frozenset(
    f"{group}.{name}"
    for group, names in {
        "model": "name img_size stride gem jpm registers token_norm",
        "data": "statistics",
        "views": "global_size local_size",
        "dino": "out_dim bottleneck_dim head_layers hidden_dim use_bn_in_head",
    }.items()
    for name in names.split()
)
"""The settings that a checkpoint may ask for: see ``take_over``."""


def saved_state(config: Any) -> TrainingState | None:
    """What a run of DINO is to begin with; None where it begins anew, or goes on by itself.

    Args:
        config: The settings of the recipe, with ``init`` and ``dino`` among them.

    Raises:
        UserError: no checkpoint is named, it has no heads, or the settings are not those that it
            was made with; the message says which to give.
    """
    if not config.init.heads:
        return None
    if not config.model.weights:
        raise UserError("--init.heads true: name the checkpoint to go on from with --model.weights")
    if goes_on(config.run):
        return None
    state = _read(config.model.weights)
    _held.clear()
    _check_settings(state, config)
    return state


def take_over(config: Any, given: Collection[str]) -> Chosen | None:
    """The settings of a checkpoint that a run of DINO goes on from, where none were given by hand.

    Network, head and statistics are those of the checkpoint; the size of images only where this
    package has written it, as others are mostly of square images. A run that goes on by itself has
    the settings that it was begun with: the checkpoint may be gone.

    Args:
        config: As ``saved_state`` takes it.
        given: The dotted names of the settings that were given by hand.

    Returns:
        None where it goes on from none, or from one that is not on this disk.

    Raises:
        UserError: the checkpoint cannot be read, or it has no heads.
    """
    weights = config.model.weights
    if not config.init.heads or not weights:
        return None
    if goes_on(config.run):
        begun = flat(RunFolder(config.run.output).begun_with() or {})
        return Chosen({name: begun[name] for name in TAKEN_OVER - {*given} if name in begun}, ())
    if not os.path.exists(weights):  # which ``saved_state`` will say, where it is needed
        return None
    state = _read(weights)
    usual, sized = flat(as_plain(config)), {"model.img_size", "views.global_size"}
    asked = _needed(state) | ({} if sized & {*given} else _size(state, config))
    taken = {
        name: value for name, value in asked.items() if name not in given and usual[name] != value
    }
    told = spelled({f"--{name}": as_typed(value) for name, value in taken.items()})
    beside = " and small crops in proportion" * ("views.local_size" in taken)
    line = f"{state.path}: with the settings that it was made with{beside},{told}"
    lines = [line] if taken else []
    return Chosen(taken, lines)


_held: list[tuple[Any, TrainingState]] = []
"""The last checkpoint that was read, from the choice of settings to the making of the networks."""


def _read(weights: str) -> TrainingState:
    """A checkpoint, which may have gigabytes, and is read once if its file is still the same."""
    path = find_weights(weights, training=True)
    stat = path.stat() if path.is_file() else None
    key = path, stat and (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    if not _held or _held[0][0] != key:
        _held[:] = [(key, read_training_state(path))]
    return _held[0][1]


def _size(state: TrainingState, config: Any) -> dict[str, Any]:
    """The settings of the size of images, if the file tells it, small crops in proportion."""
    spec = list(state.backbones.values())[-1].spec
    if spec is None:
        return {}
    views, size = config.views, list(spec.img_size)
    patch = getattr(spec.architecture, "patch_size", 1)
    small = [
        patch * max(1, round(local * new / old / patch))
        for local, new, old in zip(views.local_size, size, views.global_size)
    ]
    return {"model.img_size": size, "views.global_size": size, "views.local_size": small}


def _check_settings(state: TrainingState, config: Any) -> None:
    """Refuse settings that the saved weights do not fit, all at once, with those that they do."""
    options = []
    for name, value in _needed(state).items():
        group, _, field = name.partition(".")
        chosen = getattr(getattr(config, group), field)
        if field == "stride" and chosen is None:
            continue  # the network's own, and another name is said already
        if chosen != value:
            options.append(f"--{name} {as_typed(value)}")
    if options:
        raise UserError(
            f"{state.path}: to go on from it the settings have to be those that it was made with; "
            f"give {' '.join(options)}"
        )


def _needed(state: TrainingState) -> dict[str, Any]:
    """The settings that a state asks for, by their dotted names."""
    activation = state.settings.get("act_in_head", "gelu")
    if activation != "gelu":
        raise UserError(
            f"{state.path}: its heads have {activation}, and DINO's GELU; leave --init.heads out "
            "for the backbone alone"
        )
    sizes = [head_sizes(head, state.path) for head in state.heads.values()]
    if sizes[0] != sizes[-1]:
        raise UserError(
            f"{state.path}: the heads of student and teacher differ; it is damaged, give another"
        )
    checkpoint = list(state.backbones.values())[-1]
    spec = detect_spec(checkpoint)
    needed: dict[str, Any] = {"model.name": spec.name}
    if spec.stride != spec.architecture.default_stride:
        needed["model.stride"] = spec.stride
    if checkpoint.spec is not None:
        names = ("gem", "jpm", "registers", "token_norm")
        needed |= {f"model.{name}": getattr(spec, name) for name in names}
    statistics = _NAMES.get(Statistics(spec.mean, spec.std))
    if statistics and assumption(checkpoint) is None:
        needed["data.statistics"] = statistics
    return needed | {f"dino.{name}": value for name, value in sizes[0].items()}


def continue_from(dino: DINO, state: TrainingState, config: Any) -> str:
    """Put a saved state into the objective; returns a report, a line for all that is left.

    Raises:
        UserError: weights of other shapes than the networks', or that are not finite. The objective
            is not to be used then.
    """
    lines = [f"{state.path}: {state.format}, continued"]
    for role, source, network in both_networks(dino, state):
        lines += _load_network(role, source, network, state)
    if state.center is None:
        lines.append("  center: none in the file; it begins at 0")
    elif state.center.shape != dino.loss.center.shape:
        shapes = tuple(state.center.shape), tuple(dino.loss.center.shape)
        raise UserError(f"{state.path}: {state.center_name} has the shape {shapes[0]}, for which "
                        f"{shapes[1]} is needed; it is damaged, give another")  # fmt: skip
    else:
        dino.loss.center.copy_(state.center)
        lines.append(f"  center: {state.center.shape[1]} values")
    lines += load_additions(dino, state)
    if not all_finite(dino.state_dict()):
        raise UserError(f"{state.path}: some of it is not finite; give an earlier checkpoint")
    return "\n".join([*lines, *_left(state), *_notes(state, config)])


def _load_network(role: str, source: str, network: PatchNetwork, state: TrainingState) -> list[str]:
    """Load backbone and head of one of the two; returns what there is to say."""
    report = load_read(network.backbone, state.backbones[source])
    head = state.heads[source]
    made_for, in_dim = (h["mlp.0.weight"].shape[1] for h in (head, network.head.state_dict()))
    sizes = network.backbone.spec.architecture
    if made_for != in_dim and getattr(sizes, "part_tokens", 0) and made_for == sizes.map_dim:
        head = widened(head, in_dim)
    load_head(
        network.head, head, state.path, "its heads differ from DINO's",
        "it is damaged, or of a method that is not known here: give another",
    )  # fmt: skip
    weights = f"{len(report.matched)} of {len(report.matched) + len(report.missing)} weights"
    lines = [f"  {role}: {weights}, and a head of {len(head)}"]
    if source != role:
        lines[0] += f", which are the {source}'s: the file has no {role}"
    if made_for != in_dim:
        lines.append(
            f"    the head was made for the class token: it gives the other {in_dim - made_for} "
            f"of the feature's {in_dim} values weights of 0 at first"
        )
    lines += [f"    resized {line}" for line in report.resized]
    return lines + [f"    left: {name}: means nothing here" for name in report.unexpected]


def _left(state: TrainingState) -> list[str]:
    """A line for each thing of the file that is not taken, in words where they are known."""
    lines, names = [], list(state.others)
    for pattern, meaning in MEANINGS.items():
        known = [name for name in names if re.fullmatch(pattern, name)]
        if known:
            lines.append(f"  left: {_named(known)}: {meaning}")
            names = [name for name in names if name not in known]
    for parent in dict.fromkeys(_parent(name) for name in names):
        same = [name for name in names if _parent(name) == parent]
        lines.append(f"  left: {parent}{f'.* ({len(same)})' * (len(same) > 1)}: means nothing here")
    if state.aside:
        aside = ", ".join(state.aside)
        lines.append(f"  left: {aside}: the optimiser and the schedules begin anew")
    return lines


def _named(names: list[str]) -> str:
    """The layers that weights are of; of many the first two."""
    layers = list(dict.fromkeys(_parent(name) for name in names))
    if len(layers) <= 4:
        return ", ".join(layers)
    return f"{', '.join(layers[:2])} and {len(layers) - 2} more"


def _parent(name: str) -> str:
    """The layer that a weight is of: its name but for the last part."""
    above, _, last = name.rpartition(".")
    is_part = re.fullmatch(r"weight(_[gv])?|bias|running_\w+|num_batches_tracked", last)
    return above if is_part and above else name


def _notes(state: TrainingState, config: Any) -> list[str]:
    """What would change the first loss and is no error."""
    notes, checkpoint = [], list(state.backbones.values())[-1]
    spec, used = detect_spec(checkpoint), config.data.statistics
    likely = _NAMES.get(Statistics(spec.mean, spec.std))
    if assumption(checkpoint) is not None and likely != used:
        notes.append(
            f"how its images were normalised the file does not say; probably as by "
            f"--data.statistics {likely}, and now as by {used}"
        )
    same_size = tuple(config.model.img_size) == tuple(spec.img_size)
    mode = spec.position_resampling
    if mode != config.model.position_resampling and (config.views.num_local or not same_size):
        notes.append(f"its positions were resampled for small crops as by "
                     f"--model.position_resampling {mode}, and now are as by "
                     f"{config.model.position_resampling}")  # fmt: skip
    before, now = state.settings.get("teacher_temp"), config.dino.teacher_temp
    if isinstance(before, float) and before != now:
        notes.append(f"its teacher's temperature was {before:g} in the end, and "
                     f"--dino.teacher_temp is {now:g}")  # fmt: skip
    return [f"  note: {note}" for note in notes]
