"""The rows of the table, and what recipes are told for each."""

import argparse
import re
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.runs import Run
from transreid_ssl.outputs import BACKBONE


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
USUAL = [name for name, row in ROWS.items() if row.recipe][:-1]
"""The rows of the table where none are asked for."""
ROWS |= {
    "dino_masked": Row("DINO + masked patches", "dino", ("--dino.masked_patches=0.3",)),
    "dino_koleo": Row("DINO + KoLeo", "dino", ("--dino.koleo=0.1",)),
    "dino_sinkhorn": Row("DINO + Sinkhorn-Knopp", "dino", ("--dino.centering=sinkhorn",)),
    "dino_registers": Row("DINO + registers", "dino", ("--model.registers=4",)),
    "dino_norm": Row("DINO + token norm", "dino", ("--model.token_norm=instance",)),
    "dino_parts": Row(
        "DINO + part tokens", "dino", ("--dino.part_tokens=3", "--views.num_local=3")
    ),
    "dino_small": Row("DINO, small views too", "dino", ("--views.num_local=3",)),
}
NETWORK = "--model."
"""What options begin with that describe the network: fine-tuning is told them too."""
TRAINED = [name for name, row in ROWS.items() if row.recipe]


# In so few steps and at rates that are high enough for them, the batch-hard triplet loss draws all
# features to one point: classification alone is the steadier measure.
SHORT = ("--supervised.triplet_weight=0", "--optim.lr=6e-2")


def pretraining(name: str, seed: int, options: argparse.Namespace) -> Run:
    """A row's run without labels."""
    title, recipe, own = ROWS[name]
    own = [option for option in own if not option.startswith(NETWORK)]
    given = (
        *common(name, seed, options), f"--run.epochs={options.epochs}",
        f"--run.batch_size={options.batch_size}", f"--data.pool={options.pool}",
        f"--views.global_size={size(options)}", f"--optim.warmup_epochs={options.epochs / 8:g}",
        "--probe.data=null", *own, *further(name, options.pretraining),
    )  # fmt: skip
    folder = options.out / f"{name}_seed{seed}" / "pretrain"
    return Run("pre-training", f"{title}, seed {seed}", folder, f"{recipe}_pretrain", given)


def further(name: str, settings: Sequence[str]) -> list[str]:
    """Those of ``settings``, NAME=VALUE or ROW:NAME=VALUE, that a row is given, as options."""
    # A colon may also stand in a value.
    own = [text.removeprefix(f"{name}:") for text in settings]
    return [f"--{text}" for text in own if text.partition(":")[0] not in ROWS]


def finetuning(
    name: str, seed: int, options: argparse.Namespace, budget: tuple[float, str, int] | None = None
) -> Run:
    """A row's run with labels, or with a ``budget``: a share of them, by what, and epochs."""
    folder = options.out / f"{name}_seed{seed}"
    weights = folder / "pretrain" / BACKBONE if ROWS[name].recipe else "null"
    title, place, epochs = f"{ROWS[name].title}, seed {seed}", "finetune", options.finetune_epochs
    labels = []
    if budget:
        share, by, epochs = budget
        labels = [f"--data.label_budget={share}", f"--data.label_budget_by={by}"]
        title, place = f"{title}, {share:.0%} by {by}", f"finetune_{share}_{by}"
    given = (
        *common(name, seed, options), f"--run.epochs={epochs}", f"--model.weights={weights}",
        f"--data.name={options.target}", f"--data.root={options.target_root or 'null'}",
        f"--probe.data={options.probe_data}", f"--probe.root={options.probe_root or 'null'}",
        "--probe.every=0", "--data.statistics=pretrained",
        f"--optim.warmup_epochs={max(1, round(0.15 * epochs))}", *SHORT, *labels,
        *(f"--{setting}" for setting in options.finetuning),
    )  # fmt: skip
    return Run("fine-tuning", title, folder / place, "supervised_finetune", given)


def common(name: str, seed: int, options: argparse.Namespace) -> list[str]:
    """What every run is told."""
    end = {"dino_parts": "_pass"}.get(name, "_ics" if name.endswith("_ics") else "")
    network = re.sub("_(reid|conv)$", end, options.backbone) if end else options.backbone
    tokens = [option for option in ROWS[name].options if option.startswith(NETWORK)]
    threads = [f"--run.num_threads={options.threads}"] if options.threads else []
    image = f"--model.img_size={size(options)}"
    return [f"--run.seed={seed}", f"--model.name={network}", image, *tokens, *threads]


def size(options: argparse.Namespace) -> str:
    """Height and width as recipes read them."""
    return "[{},{}]".format(*options.img_size)
