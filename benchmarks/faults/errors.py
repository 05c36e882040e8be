"""An error on one of several processes, at every place where they meet: do all end with it?

Run on each of the processes. A job is run once to its end, and once more as if it were resumed, and
the places where its processes meet (``transreid_ssl.processes``) are noted. Then it is run anew for
each of them, and one process, the main one or another in turn, fails there. All must raise the same
line.
"""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import gather_object

from benchmarks.faults.jobs import SETTINGS, all_jobs, make_inputs, recipe_main
from transreid_ssl import processes
from transreid_ssl.errors import UserError

Place = tuple[str, int, str]
"""Module, line and kind of meeting."""


def fail_everywhere(names: list[str], folder: Path) -> list[dict[str, Any]]:
    """Run the jobs ``names`` as said above, on all processes at once.

    Args:
        names: of jobs.
        folder: of their inputs; results are made there and removed.

    Returns:
        For every place where processes meet: "job", "place", "rank" (the one that failed) and
        "answers" (by rank what was raised there), the same on every process.
    """
    os.chdir(folder)
    state = PartialState()
    found: list[dict[str, Any]] = []
    with _group_kept():
        for name in names:
            program = _program(name)
            whole, failed = Path("whole"), Path("failed")
            begun, resumed = _places(program, whole), _places(program, whole)
            known = {answer["place"] for answer in found}
            for place in dict.fromkeys([*begun, *resumed]):
                if _named(place) in known:
                    continue
                if place not in begun:
                    _on_main(shutil.copytree, whole, failed)
                shared = sum("on_main" not in answer["place"] for answer in found)
                rank = 0 if place[2] == "on_main" else (1 + shared) % state.num_processes
                answers = gather_object([_fail(program, failed, place, rank)])
                found.append(
                    {"job": name, "place": _named(place), "rank": rank, "answers": answers}
                )
            _on_main(shutil.rmtree, whole)
    return found


def _program(name: str) -> Callable[[Path], Any]:
    """A job at a batch size that processes can share."""
    if name not in SETTINGS:
        return all_jobs()[name].program
    sizes = ["--run.batch_size=12", *["--source_training.batch_size=12"] * (name == "uda")]
    return lambda folder: recipe_main(name)([*SETTINGS[name], *sizes, f"--run.output={folder}"])


def is_sound(answer: dict[str, Any]) -> bool:
    """Whether every process raised the line of the one that failed."""
    return set(answer["answers"]) == {_line(answer["place"])}


def _places(program: Callable[[Path], Any], folder: Path) -> list[Place]:
    """Where the processes of a job meet, in the order in which they first do."""
    places: dict[Place, None] = {}

    def note(place: Place) -> None:
        places.setdefault(place)

    with _watched(note):
        program(folder)
    return gather_object([list(places)])[0]  # the main process has a part in every meeting


def _fail(program: Callable[[Path], Any], folder: Path, place: Place, rank: int) -> str:
    """What this process raises when process ``rank`` fails at ``place``."""

    def fail(reached: Place) -> None:
        if reached == place and PartialState().process_index == rank:
            raise UserError(_line(_named(place)))

    try:
        with _watched(fail):
            program(folder)
        return "nothing"
    except UserError as error:
        return str(error)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        _on_main(shutil.rmtree, folder, True)


@contextlib.contextmanager
def _watched(reached: Callable[[Place], None]) -> Iterator[None]:
    """Within it ``reached`` is called where a process does its part of a meeting."""
    attempt = processes._attempt

    def watched(function: Callable[[], Any]) -> Any:
        place = _place(sys._getframe(1))

        def part() -> Any:
            reached(place)
            return function()

        return attempt(part)

    AcceleratorState._reset_state(False)  # a job is the first of its process
    with (
        mock.patch.object(processes, "_attempt", watched),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield


def _place(frame: FrameType) -> Place:
    """The call that leads into ``processes.py``."""
    kind = frame.f_code.co_name
    while frame.f_code.co_filename == processes.__file__:
        kind, frame = frame.f_code.co_name, frame.f_back
    return Path(frame.f_code.co_filename).name, frame.f_lineno, kind


def _named(place: Place) -> str:
    return f"{place[0]}:{place[1]} {place[2]}"


def _line(place: str) -> str:
    return f"a process failed at {place}"


@contextlib.contextmanager
def _group_kept() -> Iterator[None]:
    """A run ends its process group; the next one of the same processes needs it."""
    with mock.patch.object(PartialState, "destroy_process_group"):
        yield


def _on_main(function: Callable[..., Any], *arguments: Any) -> None:
    """Call ``function`` on the main process while the others wait."""
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        function(*arguments)
    state.wait_for_everyone()


def main() -> None:
    """``python -m torch.distributed.run … -m benchmarks.faults.errors FOLDER JOB…``."""
    folder, *names = sys.argv[1:]
    Accelerator(cpu=True)
    _on_main(make_inputs, Path(folder))
    found = fail_everywhere(names, Path(folder))
    if PartialState().is_main_process:
        for answer in found:
            said = "all ended" if is_sound(answer) else answer["answers"]
            print(f"{answer['job']}: {answer['place']}, process {answer['rank']}: {said}")
        print(f"{len(found)} places, {sum(map(is_sound, found))} sound", flush=True)
    PartialState().destroy_process_group()
    sys.exit(int(not all(map(is_sound, found))))


if __name__ == "__main__":
    main()
