"""The rows of ``benchmarks.objectives``, and what its recipes are told."""

import argparse
import re
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.objectives.runs import Run


class Row(NamedTuple):
    """A row's title, the recipe of its pre-training (None: a floor), and its own options."""

    title: str
    recipe: str | None = None
    options: tuple[str, ...] = ()


ROWS = {
    "untrained": Row("untrained"),
    "untrained_ics": Row("untrained, ICS"),
    "dino": Row("DINO", "dino"),
    "dino_ics": Row("DINO + ICS", "dino"),
    "moco": Row("MoCo v2", "moco"),
    "mocov3": Row("MoCo v3", "mocov3"),
    "moby": Row("MoBY", "moby"),
    "upreid": Row("UP-ReID (MoCo v2)", "upreid", ("--base=moco",)),
    "upreid_dino": Row("UP-ReID (DINO)", "upreid", ("--base=dino",)),
}
TRAINED = [name for name, row in ROWS.items() if row.recipe]


class Budget(NamedTuple):
    """A share of the labels, of people or of each person's images."""

    share: float
    by: str


# In so few steps and at rates that are high enough for them, the batch-hard triplet loss draws all
# features to one point: classification alone is the steadier measure.
SHORT = ("--supervised.triplet_weight=0", "--optim.lr=6e-2")


def pretraining(name: str, seed: int, options: argparse.Namespace) -> Run:
    """A row's run without labels."""
    title, recipe, own = ROWS[name]
    size = "[{},{}]".format(*options.img_size)
    given = (
        *common(name, seed, options), f"--run.epochs={options.epochs}",
        f"--run.batch_size={options.batch_size}", f"--data.pool={options.pool}",
        f"--views.global_size={size}", f"--optim.warmup_epochs={options.epochs / 8:g}",
        "--probe.data=null", *own, *further(name, options.pretraining),
    )  # fmt: skip
    folder = options.out / f"{name}_seed{seed}" / "pretrain"
    title = f"{title}, seed {seed}"
    return Run("pre-training", title, folder, f"{recipe}_pretrain", f"{recipe}_demo", given)


def further(name: str, settings: Sequence[str]) -> list[str]:
    """Those of ``settings``, NAME=VALUE or ROW:NAME=VALUE, that a row is given, as options."""
    found = []
    for setting in settings:
        row, _, rest = setting.partition(":")
        if row not in ROWS:  # a colon may also stand in a value
            found.append(f"--{setting}")
        elif row == name:
            found.append(f"--{rest}")
    return found


def finetuning(
    name: str,
    seed: int,
    options: argparse.Namespace,
    budget: Budget | None = None,
    epochs: int | None = None,
) -> Run:
    """A row's run with labels, or with a part of them for so many epochs."""
    folder = options.out / f"{name}_seed{seed}"
    weights = folder / "pretrain" / "backbone.safetensors" if ROWS[name].recipe else "null"
    epochs = epochs or options.finetune_epochs
    given = [
        *common(name, seed, options), f"--run.epochs={epochs}", f"--model.weights={weights}",
        f"--data.name={options.target}", f"--data.root={options.target_root or 'null'}",
        f"--probe.data={options.probe_data}", f"--probe.root={options.probe_root or 'null'}",
        "--probe.every=0", "--data.statistics=pretrained",
        f"--optim.warmup_epochs={max(1, round(0.15 * epochs))}", *SHORT,
    ]  # fmt: skip
    title, place = f"{ROWS[name].title}, seed {seed}", "finetune"
    if budget is not None:
        share, by = budget
        given += [f"--data.label_budget={share}", f"--data.label_budget_by={by}"]
        title, place = f"{title}, {share:.0%} by {by}", f"finetune_{share}_{by}"
    given += [f"--{setting}" for setting in options.finetuning]
    recipe, settings = "supervised_finetune", "supervised_demo"
    return Run("fine-tuning", title, folder / place, recipe, settings, tuple(given))


def common(name: str, seed: int, options: argparse.Namespace) -> list[str]:
    """What every run is told."""
    network = options.backbone
    if name.endswith("_ics"):
        network = re.sub("_(reid|conv)$", "_ics", network)
    threads = [f"--run.num_threads={options.threads}"] if options.threads else []
    size = "[{},{}]".format(*options.img_size)
    return [f"--run.seed={seed}", f"--model.name={network}", f"--model.img_size={size}", *threads]
