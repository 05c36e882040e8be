"""Runs of recipes, each a process of its own; what is finished is read, not repeated."""

import argparse
import contextlib
import json
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.processes import start_program
from transreid_ssl.errors import UserError
from transreid_ssl.files import fingerprint, write_json
from transreid_ssl.outputs import BACKBONE, MODEL

ROOT = Path(__file__).parents[1]
RESULTS = {"pre-training": BACKBONE, "fine-tuning": MODEL}
STOPPED = (130, -signal.SIGINT, -signal.SIGTERM)  # exit codes
Line = dict[str, float]


def options_of_runs(
    description: str, out: str, seeds: Sequence[int] = (0, 1, 2), one: str = ""
) -> argparse.ArgumentParser:
    """The options of a benchmark that runs recipes; ``one`` says how else they may be set."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    # fmt: off
    add("--seeds", nargs="+", type=int, default=list(seeds))
    add("--threads", type=int, help="of each run on a CPU")
    add("--pretraining", nargs="+", default=[], metavar="NAME=VALUE",
        help=f"further settings of pre-training, such as optim.lr=1e-3{one}")
    add("--out", type=Path, default=Path(out))
    # fmt: on
    return parser


@dataclass(frozen=True)
class Run:
    """One run of a recipe: its kind (of ``RESULTS``), what to call it, and its command.

    ``settings`` is the end of its settings file's name: dino_demo.yaml for "demo".
    """

    kind: str
    title: str
    folder: Path
    recipe: str
    options: tuple[str, ...]
    settings: str = "demo"

    @property
    def config(self) -> Path:
        """The file of settings that the options are added to."""
        name = f"{self.recipe.partition('_')[0]}_{self.settings}.yaml"
        return ROOT / "recipes" / "configs" / name

    def start(self) -> ForkServerProcess:
        """Start the program, or resume it, as a user would."""
        arguments = [f"--config={self.config}", f"--run.output={self.folder}", *self.options]
        program = ROOT / "recipes" / f"{self.recipe}.py"
        return start_program(self.beside("log"), program, arguments)

    @property
    def origin(self) -> dict[str, Any]:
        """What tells it from other runs."""
        text = self.config.read_text(encoding="utf-8")
        return {"settings": fingerprint([text]), "options": list(self.options)}

    def beside(self, ending: str) -> Path:
        """A file of ours next to the run folder, in which a recipe wants its own files only."""
        return self.folder.with_name(f"{self.folder.name}.{ending}")

    def lines(self) -> list[Line]:
        """Those of metrics.jsonl, once it is finished."""
        text = (self.folder / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


class Runs:
    """Makes runs one after another, ``planned`` many of each kind, and says how far they are."""

    def __init__(self, planned: Counter) -> None:
        self.left, self.total = planned.copy(), planned.total()
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def __call__(self, run: Run) -> list[Line]:
        """The lines of metrics.jsonl of a run, which is made or finished if need be."""
        found = _record(run)
        record = found or _execute(run)
        self.left[run.kind] -= 1
        self.seconds[run.kind].append(record["seconds"])
        lines = run.lines()
        probed = [f"mAP {line['probe/mAP']:.1f} %" for line in lines if "probe/mAP" in line]
        took = f"{record['seconds']:.0f} s{', made before' * bool(found)}"
        notes = ", ".join(filter(None, [took, " -> ".join(probed)]))
        number = f"{self.total - self.left.total()}/{self.total}"
        print(f"{number}  {run.title}: {run.kind} ({notes}); {self._time_left()}", flush=True)
        return lines

    def _time_left(self) -> str:
        """From the mean of each kind's runs; kinds that none has ended of yet are not counted."""
        left = {kind: count for kind, count in self.left.items() if count}
        known = {kind: mean(self.seconds[kind]) for kind in left if self.seconds[kind]}
        minutes = sum(known[kind] * left[kind] for kind in known) / 60
        unknown = "".join(f" and all of {kind}" for kind in left if kind not in known)
        return f"about {minutes:.0f} min left{unknown}"


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
    return record if run.origin.items() <= record.items() else None


def _execute(run: Run) -> dict:
    """Start or resume a run, wait for it and note that it is finished.

    Raises:
        UserError: it failed; what it printed is in the file that the message names.
        KeyboardInterrupt: it was told to stop.
    """
    log = run.beside("log")
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    code = _wait(run)
    if code in STOPPED:
        raise KeyboardInterrupt
    if code:
        printed = log.read_text(encoding="utf-8").strip().splitlines()
        raise UserError(f"{run.title}, {run.kind}: it failed; see {log}: {(printed or [''])[-1]}")
    record = run.origin | {"seconds": round(time.monotonic() - begin, 1)}
    write_json(run.beside("json"), record)
    return record


def _wait(run: Run) -> int:
    """The exit code of a run; Ctrl-C and SIGTERM let it end after its step, with a checkpoint."""
    started: list[ForkServerProcess] = []
    asked: list[int] = []

    def stop(number: int, _: object) -> None:
        asked.append(number)
        for process in started:
            process.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        process = run.start()
        started.append(process)
        if asked:  # before it was known
            process.terminate()
        with contextlib.suppress(KeyboardInterrupt):  # the run has been sent the same Ctrl-C
            process.join()
        process.join()
        return process.exitcode
    finally:
        signal.signal(signal.SIGTERM, before)
