"""Where recipes and commands leave what others take up, as long as nobody names another place.

And the check, before any work, that what a command writes replaces nothing that it reads.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from transreid_ssl.errors import UserError
from transreid_ssl.files import refuse_folder
from transreid_ssl.words import nearest

BACKBONE, MODEL = "backbone.safetensors", "model.safetensors"
"""What pre-training and fine-tuning leave in the folder of a run."""
BEST = "best.safetensors"
"""What both leave beside it where they are probed: the network of the best probe."""

MARK = "run.lock"
"""The file that says that a folder is a run's; whoever trains in it holds a lock on it."""

OUTPUTS = "outputs"
"""The folder of all runs."""
COPIES = (f"{OUTPUTS}/whiten/{MODEL}", f"{OUTPUTS}/calibrate/{MODEL}")
"""Where ``whiten`` and ``calibrate`` write the weights of a run with what they have found."""
PRETRAINED = f"outputs/dino_pretrain/{BACKBONE}"
SUPERVISED = f"outputs/supervised_finetune/{MODEL}"
SCORES, SUBSET = "outputs/cfs/scores.parquet", "outputs/cfs/subset.parquet"

MADE_BY = {
    PRETRAINED: "python -m transreid_ssl pretrain dino",
    SUPERVISED: "python -m transreid_ssl finetune supervised",
    SCORES: "python -m transreid_ssl.cfs score",
    SUBSET: "python -m transreid_ssl.cfs select",
}


class FinishedRun(NamedTuple):
    """A run that has ended: its folder, the weights that it left, when (seconds since 1970)."""

    folder: Path
    weights: Path
    ended: float


def finished_runs() -> list[FinishedRun]:
    """The runs in ``OUTPUTS`` that have left weights, of all recipes, the newest first.

    A run leaves them at its end, so that one that is broken off or still goes on is none of them.
    Nor is a folder in which a command wrote weights, such as a copy that is whitened.
    """
    folders = [mark.parent for mark in Path(OUTPUTS).glob(f"*/{MARK}")]
    return sorted(filter(None, map(_run_in, folders)), key=lambda run: -run.ended)


def _run_in(folder: Path) -> FinishedRun | None:
    """The weights in a folder: of two the older, as a copy is made of what is there already."""
    found = [folder / name for name in (MODEL, BACKBONE) if (folder / name).is_file()]
    if not found:
        return None
    weights = min(found, key=lambda path: path.stat().st_mtime)
    # The file may be written again, whitened in its place or by the same command once more.
    steps = [path.stat().st_mtime for path in folder.glob("checkpoints/step_*.pt")]
    ended = weights.stat().st_mtime
    return FinishedRun(folder, weights, min(ended, max(steps, default=ended)))


def choose_run(name: str | None) -> tuple[FinishedRun, str]:
    """The finished run ``name``, or the newest one; and a sentence on which it is and why.

    Args:
        name: Its folder, by its path or by its name in ``OUTPUTS``.

    Raises:
        UserError: there is none, or it has not ended.
    """
    if name is not None:
        return _named_run(name), "as asked for"
    runs = finished_runs()
    if not runs:
        raise UserError(
            f"no weights: no run in {OUTPUTS}/ has left any; make some with `python -m "
            "transreid_ssl pretrain dino`, or name a file with --weights"
        )
    ended = datetime.fromtimestamp(runs[0].ended).strftime("%Y-%m-%d %H:%M")
    if len(runs) == 1:
        return runs[0], f"the one finished run in {OUTPUTS}/ (ended {ended})"
    return runs[0], (
        f"the newest of {len(runs)} finished runs in {OUTPUTS}/ (ended {ended}); --run NAME takes "
        "another"
    )


def _named_run(name: str) -> FinishedRun:
    folder = folder_of(name, [run.folder.name for run in finished_runs()], "--run ")
    if found := _run_in(folder):
        return found
    raise UserError(
        f"--run {name}: has not ended, as {folder} holds no {MODEL} and no {BACKBONE}; give "
        "the command that began it once more to go on with it"
    )


def begun_runs() -> list[str]:
    """The names of the runs in ``OUTPUTS``, finished or not, the one that was begun last first."""
    marks = sorted(Path(OUTPUTS).glob(f"*/{MARK}"), key=lambda mark: -mark.stat().st_mtime)
    return [mark.parent.name for mark in marks]


def folder_of(
    name: str | Path, known: Iterable[str], option: str = "", others: Iterable[str] = ()
) -> Path:
    """The folder of a run, given by its path or by its name in ``OUTPUTS``.

    Args:
        name: of the run.
        known: the names of runs that may be meant.
        option: what the complaint begins with, such as "--run ".
        others: further words that could have been typed in its place.

    Raises:
        UserError: there is no such folder; it names those that there are.
    """
    for folder in (Path(name), Path(OUTPUTS, name)):
        if folder.is_dir():
            return folder
    known = dict.fromkeys(known)
    have = f"; {OUTPUTS}/ has {', '.join(known)}" if known else ""
    near = nearest(str(name), [*known, *others])
    raise UserError(f"{option}{name}: there is no such run{have}{near}")


def require(path: str | Path, otherwise: str = "name another") -> str | Path:
    """``path``; ``UserError`` if it is no file, which says what makes it, ``otherwise`` what else.

    Both are left out for a path that is not in ``MADE_BY``.
    """
    if not Path(path).is_file():
        made_by = MADE_BY.get(str(path))
        advice = f"; make it with `{made_by}`, or {otherwise}" if made_by else ""
        raise UserError(f"{path}: there is no such file{advice}")
    return path


def check_outputs(
    *outputs: str | Path,
    inputs: Iterable[str | Path | None] = (),
    beside: Mapping[Path, Callable[[Path], bool]] | None = None,
    keep: bool = False,
) -> None:
    """Refuse files to be written that would replace what is read, or somebody's own: before work.

    Args:
        outputs: files that the user named.
        inputs: files and folders that the command reads; None, and what is no path, is passed over.
        beside: further files that are written under names made from these, each with the question
            whether what is there already was written by the same command, and may be replaced.
        keep: what is there already is not to be replaced (``keeps``), also beside the outputs.

    Raises:
        UserError: a folder is there, an output is an input or lies in one and exists already, two
            outputs are one file, one is to be kept, or a file beside them is not of this command.
    """
    beside = beside or {}
    read = [Path(path) for path in inputs if path is not None and _exists(path)]
    written = [Path(path) for path in (*outputs, *beside)]
    for number, path in enumerate(written):
        refuse_folder(path)
        if path.resolve() in [other.resolve() for other in written[:number]]:
            raise UserError(f"{path}: two results would be written there; give them two names")
        if _exists(path):
            _refuse_input(path, read)
    for path in filter(_exists, written):
        if path in beside and not beside[path](path):
            raise UserError(
                f"{path}: would be replaced, and was not written by this command; move it away "
                f"or give the result another name"
            )
        if keep:
            raise UserError(
                f"{path}: is there already; write elsewhere, or replace it by --overwrite true"
            )


def _refuse_input(path: Path, read: Iterable[Path]) -> None:
    """Raise ``UserError`` if a file that is there is one of those that are read, or in one."""
    for source in read:
        if path.samefile(source):
            raise UserError(f"{path}: is read by this command; write its result elsewhere")
        if source.is_dir() and path.resolve().is_relative_to(source.resolve()):
            raise UserError(
                f"{path}: is there already, in the folder {source} that is read; remove it "
                "or write elsewhere"
            )


@dataclass(frozen=True, kw_only=True)
class Overwriting:
    """Settings of a command that writes results.

    Args:
        overwrite: Replace what is there already under a name that you give.
    """

    overwrite: bool = False


def keeps(options: Overwriting, name: str = "out") -> bool:
    """Whether a command is to leave alone what it finds where it would write.

    That is where somebody chose the place. At its default place it replaces what it wrote before.

    Args:
        options: its settings.
        name: of the one that names the place.
    """
    (usual,) = [field.default for field in fields(options) if field.name == name]
    return getattr(options, name) != usual and not options.overwrite


DONE = "is there already, of images of these names and with these settings: nothing is left to do"
"""What commands say that go on where they were stopped, and have come to their end before."""


ANEW = "of images that were written anew since, as the times or sizes of their files say"
"""What they say of a result that is there already, of files that are no longer those of then."""


def begins_with(path: Path, text: str) -> bool:
    """Whether a file begins with this text: how a command knows what it has written itself."""
    with open(path, "rb") as file:
        return file.read(len(text.encode())) == text.encode()


PAGE_MARK = "<!doctype html>\n<!-- made by transreid_ssl -->\n"
"""What pages begin with (report/templates/base.html)."""


def page_of(result: str | Path) -> Path:
    """The page of a command's result: beside it, under its name."""
    return Path(result).with_suffix(".html")


def picture_of(result: str | Path) -> Path:
    """The picture of a command's result: beside it, under its name."""
    return Path(result).with_suffix(".png")


def is_page(path: Path) -> bool:
    """Whether a page of ours is there, which may be replaced."""
    return begins_with(path, PAGE_MARK)


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # names that no file can have, such as a long specification
        return False
