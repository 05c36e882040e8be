"""Finding the weights file that a user means: a file, a folder, or a repository of Hugging Face."""

import hashlib
import re
from pathlib import Path

from transreid_ssl.errors import UserError
from transreid_ssl.outputs import BACKBONE, MODEL

FILE_NAMES = (BACKBONE, MODEL)
"""What a run writes, and what is looked for in folders and hub repositories."""


def find_weights(source: str | Path, training: bool = False) -> Path:
    """The file behind a path, a folder or a hub id (``owner/name``, also ``hf-hub:owner/name``).

    Args:
        training: Of the folder of a run take the newest checkpoint, which is otherwise taken where
            there is no backbone yet.

    Raises:
        UserError: there is nothing of the kind.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        found = [path / name for name in FILE_NAMES if (path / name).is_file()]
        saved = sorted(path.glob("checkpoints/step_*.pt"))[-1:]
        if found := saved + found if training else found + saved:
            return found[0]
        raise UserError(f"{path}: no {' or '.join(FILE_NAMES)} in this folder; name the file")
    text = str(source)
    repository = text.removeprefix("hf-hub:")
    named = re.fullmatch(r"[\w.-]+/[\w.-]+", repository) and not path.parent.is_dir()
    if text.startswith("hf-hub:") or (named and path.suffix not in _SUFFIXES):
        return _download(repository)
    raise UserError(f"{source}: no such weights file; check the path")


def weights_digest(source: str | Path) -> str:
    """Digest of the content of the weights file that a path, a folder or a hub id stands for."""
    with open(find_weights(source), "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt")


def _download(repository: str) -> Path:
    # Imported here: only this one use of the package talks to the network.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in FILE_NAMES:
        try:
            return Path(hf_hub_download(repository, name))
        except Exception as error:
            # "Not in the cache" means that the hub could not be asked, not that there is no file.
            offline = isinstance(error, LocalEntryNotFoundError)
            if isinstance(error, EntryNotFoundError) and not offline:
                continue
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise UserError(
                f"{repository}: neither a file here nor found on the Hugging Face hub ({reason})"
            ) from error
    raise UserError(f"{repository}: this hub repository has no {' or '.join(FILE_NAMES)}")
