"""Runs of recipes, each a process as a user starts it; what is finished is read, not repeated."""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from transreid_ssl.errors import UserError
from transreid_ssl.files import write_json

ROOT = Path(__file__).parents[1]
RESULTS = {"pre-training": "backbone.safetensors", "fine-tuning": "model.safetensors"}
Line = dict[str, float]


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


@dataclass(frozen=True)
class Run:
    """One run of a recipe: its kind (of ``RESULTS``), what to call it, and its command."""

    kind: str
    title: str
    folder: Path
    recipe: str
    settings: str
    options: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """Python's arguments."""
        config = ROOT / "recipes" / "configs" / f"{self.settings}.yaml"
        recipe = ROOT / "recipes" / f"{self.recipe}.py"
        place = f"--run.output={self.folder}"
        return [str(recipe), f"--config={config}", place, *self.options]

    def beside(self, ending: str) -> Path:
        """A file of ours next to the run folder, in which a recipe wants its own files only."""
        return self.folder.with_name(f"{self.folder.name}.{ending}")


class Runs:
    """Makes runs one after another, and says how far they are.

    Args:
        planned: How many runs there will be of each kind.
    """

    def __init__(self, planned: Counter) -> None:
        self.left, self.total = planned.copy(), planned.total()
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def __call__(self, run: Run) -> list[Line]:
        """The lines of metrics.jsonl of a run, which is made or finished if need be."""
        record = _record(run)
        again = record is not None
        if not again:
            record = _execute(run)
        self.left[run.kind] -= 1
        self.seconds[run.kind].append(record["seconds"])
        lines = self.read(run)
        self._tell(run, f"{record['seconds']:.0f} s{', made before' * again}", lines)
        return lines

    @staticmethod
    def read(run: Run) -> list[Line]:
        """The lines of a finished run."""
        text = (run.folder / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def _tell(self, run: Run, took: str, lines: Sequence[Line]) -> None:
        number = self.total - self.left.total()
        found = [f"mAP {line['probe/mAP']:.1f} %" for line in lines if "probe/mAP" in line]
        print(
            f"{number}/{self.total}  {run.title}: {run.kind} "
            f"({', '.join([took, ' -> '.join(found)] if found else [took])}); {self._time_left()}",
            flush=True,
        )

    def _time_left(self) -> str:
        """From the mean of each kind's runs; kinds that none has ended of yet are not counted."""
        known = {kind: sum(times) / len(times) for kind, times in self.seconds.items()}
        minutes = sum(known.get(kind, 0) * count for kind, count in self.left.items()) / 60
        unknown = [kind for kind, count in self.left.items() if count and kind not in known]
        return f"about {minutes:.0f} min left" + "".join(f" and all of {kind}" for kind in unknown)


def last_with(lines: Sequence[Line], name: str) -> Line:
    """The last line that holds ``name``."""
    return [line for line in lines if name in line][-1]


def probes(lines: Sequence[Line]) -> tuple[Line, Line]:
    """The probe before the first step, and the one at the end."""
    found = [line for line in lines if "probe/mAP" in line]
    return found[0], found[-1]


def _record(run: Run) -> dict | None:
    """What was noted when the same run was finished; None if it was not."""
    path = run.beside("json")
    if not path.is_file() or not (run.folder / RESULTS[run.kind]).is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return record if record["command"] == run.command[1:] else None


def _execute(run: Run) -> dict:
    """Start or resume a run, wait for it and note that it is finished.

    Raises:
        UserError: it failed; what it printed is in the file that the message names.
    """
    log = run.beside("log")
    log.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    begin = time.monotonic()
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *run.command], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the same Ctrl-C has asked it to end after its step
            raise
    if code:
        printed = log.read_text(encoding="utf-8").strip().splitlines()
        raise UserError(f"{run.title}, {run.kind}: it failed; see {log}: {(printed or [''])[-1]}")
    seconds = time.monotonic() - begin
    record = {"command": run.command[1:], "seconds": round(seconds, 1)}
    write_json(run.beside("json"), record)
    return record


# -- the commands


def pretraining(name: str, seed: int, options: argparse.Namespace) -> Run:
    """A row's run without labels."""
    title, recipe, own = ROWS[name]
    size = "[{},{}]".format(*options.img_size)
    given = (
        *common(name, seed, options), f"--run.epochs={options.epochs}",
        f"--run.batch_size={options.batch_size}", f"--data.pool={options.pool}",
        f"--views.global_size={size}", f"--optim.warmup_epochs={options.epochs / 8:g}",
        "--probe.data=null", *own, *options.pretraining,
    )  # fmt: skip
    folder = options.out / f"{name}_seed{seed}" / "pretrain"
    title = f"{title}, seed {seed}"
    return Run("pre-training", title, folder, f"{recipe}_pretrain", f"{recipe}_demo", given)


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
        "--probe.every=0", "--data.statistics=imagenet",
        f"--optim.warmup_epochs={round(0.15 * epochs)}",
    ]  # fmt: skip
    title, place = f"{ROWS[name].title}, seed {seed}", "finetune"
    if budget is not None:
        share, by = budget
        given += [f"--data.label_budget={share}", f"--data.label_budget_by={by}"]
        title, place = f"{title}, {share:.0%} by {by}", f"finetune_{share}_{by}"
    given += options.finetuning
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
