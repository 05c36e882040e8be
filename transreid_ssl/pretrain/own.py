"""Settings for one's own crops: what ``--config auto`` chooses from the pool and the machine."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transreid_ssl import training
from transreid_ssl.pretrain.surroundings import Crops, Machine, look_at, this_machine
from transreid_ssl.training.config import as_plain, flat
from transreid_ssl.training.yaml_files import read_yaml

FEW = 100_000
"""Images below which the published views do harm: 20 epochs of them on 8,642 crops (ViT-S/16+ICS)
took direct retrieval from 2.4 to 1.1 % mAP, and two large views of ``dino_cpu.yaml`` to 6.4 %."""
OWN = "own.yaml"
_SEEN = {"cpu": 345_600, "gpu": 1_000_000}
"""Images to see in a run. On a CPU what 40 epochs of ``dino_cpu.yaml`` see of Market-1501's crops;
with a GPU a larger network, which after 154,000 was still rising, has ten minutes for its own."""
_VIEW_GIB = 20 / (256 * 4)
"""GPU memory of a view of 256x128 in ViT-S+ICS: 256 images of four such areas took 20 GiB."""


@dataclass(frozen=True)
class Chosen:
    """Settings by their dotted names, and what there is to say of them."""

    settings: Mapping[str, Any]
    lines: Collection[str]


def choose(config: Any, given: Collection[str], demo: Path) -> Chosen:
    """The settings for the pool of ``config``, or those that its run folder was begun with.

    They depend on the pool and the machine's cores and memory, not on how busy it is, so that all
    processes choose alike.

    Args:
        config: a ``PretrainingConfig``: what was given by hand, and defaults.
        given: the dotted names of what was given, which is not chosen.
        demo: the recipe's demo settings; what belongs to its method alone is taken from there.

    Raises:
        UserError: the pool or the initial weights cannot be read.
    """
    machine = this_machine()
    base = base_settings(type(config), demo)
    output = config.run.output if "run.output" in given else base["run.output"]
    begun = training.RunFolder(output).begun_with()
    if begun is not None and not config.run.overwrite:
        return _as_begun(begun, config, given, machine, output)
    crops = look_at(config)
    return choose_for(crops, machine, config, given, base)


def _as_begun(
    begun: Mapping[str, Any], config: Any, given: Collection[str], machine: Machine, output: str
) -> Chosen:
    """What a run was begun with; only the number of its workers is of the machine that goes on."""
    plain = as_plain(config)
    known = flat({name: part for name, part in begun.items() if name in plain})
    # What an older version did not know is left to its default, with which it was begun.
    settings = {**known, "run.output": output, "run.overwrite": False}
    found = _Choices(config, given, settings)
    _workers(found, machine)
    return Chosen(
        found.settings, [f"--config auto: as {output} was begun; new are only:", *found.lines]
    )


def choose_for(
    crops: Crops, machine: Machine, config: Any, given: Collection[str], base: Mapping[str, Any]
) -> Chosen:
    """The settings for these crops on this machine, each choice with its reason."""
    many = crops.count >= FEW and machine.memory is not None
    if many:
        base = {name: base[name] for name in ("run.output",)}
    found = _Choices(config, given, base)
    if many:
        found.say("settings", "the paper's", f"a GPU, and {FEW:,} images or more")
    else:
        why = "the papers' views, on so few, led below an untrained network"
        if crops.count >= FEW:
            why = "the papers' networks ask for GPUs"
        found.say("views", "two large ones, with mixed backgrounds", why)
        _network(found, crops, machine)
    _statistics(found)
    _mates(found, crops)
    _batch(found, crops, machine, many)
    if not many:
        _epochs(found, crops, machine)
    _queue(found, crops)
    _workers(found, machine)
    head = f"--config auto, for {crops} on {machine}; an option given by hand comes before it:"
    return Chosen(found.settings, [head, *found.lines])


class _Choices:
    """Settings as they are chosen, and a line on each; what is given by hand stays as it is."""

    def __init__(self, config: Any, given: Collection[str], base: Mapping[str, Any]) -> None:
        self._plain = flat(as_plain(config))
        self.given, self.settings = set(given), dict(base)
        self.lines: list[str] = []

    def value(self, name: str) -> Any:
        """What will run, as far as it is chosen."""
        if name in self.given:
            return self._plain[name]
        return self.settings.get(name, self._plain.get(name))

    def take(self, title: str, name: str, value: Any, reason: str, shown: str = "") -> None:
        """Choose ``value``, unless another was given, and say which it is and why."""
        if name in self.given:
            self.say(title, _shown(self.value(name)), "given by hand")
            return
        self.settings[name] = value
        self.say(title, shown or _shown(value), reason)

    def say(self, title: str, value: str, reason: str) -> None:
        """Add a line."""
        self.lines.append(f"  {title:10} {value}: {reason}")


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _network(found: _Choices, crops: Crops, machine: Machine) -> None:
    """Network, size of the input, proportions of the crops of it, and the learning rate."""
    gpu = machine.memory is not None
    name = "vit_small_patch16_conv" if gpu else "vit_nano_patch8_conv"
    why = "trains in minutes on a CPU" if not gpu else "a GPU has room for it (not measured here)"
    stem = "batch norms in its stem keep the colours of clothing, which instance norms lose"
    found.take("network", "model.name", name, f"{why}; {stem}")
    height, why = 64, "all that a CPU has time for"
    if gpu:
        height = 256 if crops.height >= 128 else 128
        why = "the usual size" if height == 256 else "most crops are less than 128 pixels high"
    # Others than upright crops would be squashed or stretched.
    width = (
        height // 2 if crops.aspect >= 1.6 else height * 3 // 4 if crops.aspect >= 1.2 else height
    )
    if width != height // 2:
        why += f"; as wide as crops of height / width {crops.aspect:.2f}"
    sizes = ("model.img_size", "views.global_size")
    size = next((found.value(one) for one in sizes if one in found.given), [height, width])
    if set(sizes) & found.given:
        why = "given by hand"
    height, width = size
    for one in sizes:
        if one not in found.given:
            found.settings[one] = [height, width]
    found.say("input", _shown(size), why)
    found.settings["views.local_size"] = [max(1, height // 2), max(1, width // 2)]
    found.settings["views.ratio"] = [
        round(0.84 * width / height, 4),
        round(1.2 * width / height, 4),
    ]
    if gpu:
        found.take("rate", "optim.lr", 5e-4, "the papers' for this network")


def _statistics(found: _Choices) -> None:
    """What images are normalised with: the statistics of the weights that the run begins with."""
    weights = found.value("model.weights")
    if not weights:
        found.take("statistics", "data.statistics", "imagenet", "it begins with random weights")
        return
    from transreid_ssl.models import STATISTICS, read_spec

    spec = read_spec(weights)
    theirs = spec.mean, spec.std
    names = [name for name, known in STATISTICS.items() if np.allclose(known, theirs)]
    if names:
        found.take("statistics", "data.statistics", names[0], f"those of {weights}")


def _mates(found: _Choices, crops: Crops) -> None:
    """Views of two frames of a track, and a probe by what tracks are sure of."""
    terms = [found.value(f"regularisers.{kind}_weight") for kind in ("consistency", "intrinsic")]
    if crops.mates is None or any(terms):  # UP-ReID's terms compare parts of one image
        return
    if crops.mates < 0.5:
        why = f"{crops.mates:.0%} of the images have another frame of their track"
        found.take("mates", "views.mates", "image", why)
    else:
        why = "two frames of a track teach more than two crops of a frame"
        found.take("mates", "views.mates", "track", why)
    if crops.sure and not {"probe.data", "probe.root"} & found.given:
        found.take("probe", "probe.data", "auto", "tells, without labels, whether it gets better")


def _batch(found: _Choices, crops: Crops, machine: Machine, many: bool) -> None:
    """Images of a step, and into how many parts it is cut for the GPU's memory."""
    one = machine.memory and _images_at_once(found, machine.memory)
    if many:
        count, why = found.value("run.batch_size"), "the paper's"
    else:
        count, why = 64, "what small networks were tried with here"
        if machine.memory is not None:
            count = max(16, min(128, _power_of_two(one)))
            why = "as much as was tried, or as the GPU's memory holds"
        if crops.count < 8 * count:
            count = max(min(8, crops.count), _power_of_two(crops.count // 8))
            why = f"eight steps an epoch or more, of {crops.count:,} images"
    if count % machine.processes:
        count = machine.processes * max(1, count // machine.processes)
        why += f", shared by {machine.processes} processes"
    found.take("batch", "run.batch_size", count, why)
    if machine.memory is None or "vit" not in found.value("model.name"):
        return
    share = found.value("run.batch_size") / machine.processes
    parts = 1
    while share / parts > max(1, one) and share % (2 * parts) == 0:
        parts *= 2
    if parts > 1:
        why = f"{share:.0f} images at once would not fit in {machine.memory:.0f} GiB"
        found.take("parts", "run.accumulation", parts, why)


def _images_at_once(found: _Choices, memory: float) -> int:
    """How many images of a step fit into this many GiB, by what ViT-S+ICS took."""
    large, small = (math.prod(found.value(f"views.{kind}_size")) for kind in ("global", "local"))
    area = found.value("views.num_global") * large + found.value("views.num_local") * small
    return int(0.8 * memory / (_VIEW_GIB * area / (256 * 128)))


def _power_of_two(most: int) -> int:
    return 1 << max(0, most.bit_length() - 1)


def _epochs(found: _Choices, crops: Crops, machine: Machine) -> None:
    """As many as show the network enough images, unless it would learn few ones by heart."""
    target = _SEEN["cpu" if machine.memory is None else "gpu"]
    epochs = max(1, min(60, round(target / crops.count)))
    why = f"about {epochs * crops.count:,} images to see"
    if epochs == 60:
        why += "; with more, few images are learnt by heart"
    found.take("epochs", "run.epochs", epochs, why)
    longest = found.value("run.epochs") / 10
    if found.value("optim.warmup_epochs") > longest:
        found.take("warm-up", "optim.warmup_epochs", longest, "a tenth of the run")


def _queue(found: _Choices, crops: Crops) -> None:
    """A queue that holds no image twice, of methods that have one."""
    for method in ("moco", "moby"):
        name = f"{method}.queue_size"
        asked = found.value(name)
        if asked is not None and asked > crops.count // 2:
            size = max(1, crops.count // 2)
            found.take("queue", name, size, "an image's own earlier keys are no negatives")


def _workers(found: _Choices, machine: Machine) -> None:
    """Processes that prepare images."""
    if machine.memory is None:
        count = min(4, max(1, machine.cores // 4)) if machine.cores > 1 else 0
        why = "training computes on all, and needs little of their time for images"
    else:
        count, why = max(0, min(15, machine.cores - 1)), "a GPU waits for none of so many"
    found.take("workers", "run.num_workers", count, f"of {machine.cores} cores; {why}")


def base_settings(kind: type, demo: Path) -> dict[str, Any]:
    """``own.yaml`` for a recipe: its sections, and from the demo's those that belong to its method.

    By dotted names.
    """
    method = demo.stem.removesuffix("_demo")
    own, own_method = read_yaml(demo.parent / OWN), read_yaml(demo)
    sections = {**{name: own_method[name] for name in own_method if name not in own}, **own}
    found = flat({name: part for name, part in sections.items()
                  if name in kind.__dataclass_fields__})  # fmt: skip
    if method != "dino":
        found["run.output"] += f"_{method}"
    return found
