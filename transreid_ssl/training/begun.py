"""What a run notes when it begins or goes on, for the page of one that does not come to its end."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from transreid_ssl.data import Pool
from transreid_ssl.files import write_json
from transreid_ssl.logs import LAST_LINE
from transreid_ssl.shipped import recipes
from transreid_ssl.training.loop import Trainer
from transreid_ssl.training.ownership import BEGUN

_OVERWRITE = "--run.overwrite"


def note_begin(trainer: Trainer, images: Pool | None) -> None:
    """Write what a run is and how it goes on. For the main process."""
    probe, plan = trainer.probing.probe, trainer.plan
    made = {
        "method": trainer.objective.name,
        "images": images.describe() if images is not None else None,
        "probed": probe.described if probe else None,
    }
    processes = trainer.accelerator.num_processes
    command = to_go_on(trainer.settings.overwrite, processes)
    content = {"steps_per_epoch": plan.steps_per_epoch, "command": command, "made": made}
    write_json(trainer.run.path / BEGUN, content)


def to_go_on(
    overwrites: bool, processes: int = 1, words: Sequence[str] | None = None
) -> str | None:
    """The command that goes on with the run of this process; None where no command began it.

    Args:
        overwrites: the run's settings throw away what is in its folder, which this one must not.
        processes: that make the run.
        words: how this process was started; ``sys.orig_argv``, unless a test says otherwise.
    """
    found = list(sys.orig_argv if words is None else words)
    program = _program(found)
    if program is None:
        return None
    kept: list[str] = []
    rest = iter(found[len(program) :])
    for word in rest:
        if word == _OVERWRITE:
            next(rest, None)
        elif not word.startswith(f"{_OVERWRITE}="):
            kept.append(word)
    if overwrites:  # perhaps by a settings file
        kept += [_OVERWRITE, "false"]
    if processes > 1 and LAST_LINE in os.environ:  # --processes was taken away for each of them
        kept += ["--processes", str(processes)]
    name = Path(program[-1]).name if program[-1:] != ["transreid_ssl"] else ""
    start = [name] if name == "transreid-ssl" else ["python", *_without_buffers(program[1:])]
    return shlex.join([*start, *kept])


def _program(words: Sequence[str]) -> list[str] | None:
    """The words up to the program's name, if it is this package's or one of its recipes."""
    for place, word in enumerate(words[:5]):
        module = place and words[place - 1] == "-m" and word.partition(".")[0] == "transreid_ssl"
        recipe = word.endswith(".py") and Path(word).stem in recipes()  # of any copy
        if module or recipe or Path(word).name == "transreid-ssl":
            return list(words[: place + 1])
    return None


def _without_buffers(words: Sequence[str]) -> list[str]:
    """Without what torch's launcher adds for the interpreter."""
    return [word for word in words if word != "-u"]
