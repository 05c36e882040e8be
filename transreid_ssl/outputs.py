"""Where recipes and commands leave what others take up, as long as nobody names another place.

And the check, before any work, that what a command writes replaces nothing that it reads.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from transreid_ssl.errors import UserError
from transreid_ssl.files import refuse_folder

BACKBONE, MODEL = "backbone.safetensors", "model.safetensors"
"""What pre-training and fine-tuning leave in the folder of a run."""
BEST = "best.safetensors"
"""What fine-tuning leaves beside: the network of its best probe."""

OUTPUTS = "outputs"
"""The folder of all runs."""
PRETRAINED = f"outputs/dino_pretrain/{BACKBONE}"
SUPERVISED = f"outputs/supervised_finetune/{MODEL}"
SCORES, SUBSET = "outputs/cfs/scores.parquet", "outputs/cfs/subset.parquet"

MADE_BY = {
    PRETRAINED: "python -m transreid_ssl pretrain dino",
    SUPERVISED: "python -m transreid_ssl finetune supervised",
    SCORES: "python -m transreid_ssl.cfs score",
    SUBSET: "python -m transreid_ssl.cfs select",
}


def newest_weights() -> list[Path]:
    """What the runs in ``OUTPUTS`` have left, the newest file first."""
    found = [path for name in (MODEL, BACKBONE) for path in Path(OUTPUTS).glob(f"*/{name}")]
    return sorted(found, key=lambda path: -path.stat().st_mtime_ns)


def require(path: str | Path, otherwise: str = "name another") -> None:
    """Raise ``UserError`` if ``path`` is no file; it says what makes it, ``otherwise`` what else.

    Both are left out for a path that is not in ``MADE_BY``.
    """
    if not Path(path).is_file():
        made_by = MADE_BY.get(str(path))
        advice = f"; make it with `{made_by}`, or {otherwise}" if made_by else ""
        raise UserError(f"{path}: there is no such file{advice}")


def check_outputs(
    *outputs: str | Path,
    inputs: Iterable[str | Path | None] = (),
    beside: Mapping[Path, Callable[[Path], bool]] | None = None,
) -> None:
    """Refuse files to be written that would replace what is read, or somebody's own: before work.

    Args:
        outputs: files that the user named.
        inputs: files and folders that the command reads; None, and what is no path, is passed over.
        beside: further files that are written under names made from these, each with the question
            whether what is there already was written by the same command, and may be replaced.

    Raises:
        UserError: a folder is there, an output is an input or lies in one and exists already, two
            outputs are one file, or a file beside them is not of this command.
    """
    beside = beside or {}
    read = [Path(path) for path in inputs if path is not None and _exists(path)]
    written = [Path(path) for path in (*outputs, *beside)]
    for number, path in enumerate(written):
        refuse_folder(path)
        if path.resolve() in [other.resolve() for other in written[:number]]:
            raise UserError(f"{path}: two results would be written there; give them two names")
        if not _exists(path):
            continue
        for source in read:
            if path.samefile(source):
                raise UserError(f"{path}: is read by this command; write its result elsewhere")
            if source.is_dir() and path.resolve().is_relative_to(source.resolve()):
                raise UserError(
                    f"{path}: is there already, in the folder {source} that is read; remove it "
                    "or write elsewhere"
                )
    for path, is_ours in beside.items():
        if path.exists() and not is_ours(path):
            raise UserError(
                f"{path}: would be replaced, and was not written by this command; move it away "
                f"or give the result another name"
            )


def begins_with(path: Path, text: str) -> bool:
    """Whether a file begins with this text: how a command knows what it has written itself."""
    with open(path, "rb") as file:
        return file.read(len(text.encode())) == text.encode()


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # names that no file can have, such as a long specification
        return False
