"""Writing files so that a crash, a kill or a full disk never leaves half of one behind.

And reading pickles, which could run any program, so that they run none.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from transreid_ssl.errors import UserError

# The only way to read the process's mask is to set it, and for that moment files that other threads
# make would be open to everybody: so it is read once, when hardly any thread is running yet.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is fsynced and renamed onto ``path``.

    On any failure the temporary file is removed and ``path`` keeps its old content.

    Raises:
        UserError: the disk is full, the folder cannot be written, a file-size limit was met, or
            ``path`` is itself a folder.
    """
    path = Path(path)
    refuse_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: writing failed ({error.strerror or error}); what was there before is "
            "untouched: free some space and run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def refuse_folder(path: str | Path) -> None:
    """Raise ``UserError`` if a folder is where a file is to be written."""
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; give the path of a file, in it or elsewhere")


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """A 16-hex-digit digest of a sequence of strings, the same on every machine and run."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds: plain values only, and no more of them than a person would write.

    Raises:
        UserError: no such file, not YAML, or one whose aliases or depth blow it up.
    """
    try:
        node = yaml.compose(Path(path).read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
        if node is None:
            return None
        if _num_values(node, {}) > _MOST_VALUES:
            raise UserError(f"{path}: its aliases stand for too many values; write them out")
        return yaml.SafeLoader("").construct_document(node)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not readable as YAML ({reason})") from error


_MOST_VALUES = 100_000


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Values under ``node``, those behind an alias as often as it is used."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES  # until it is known: an alias of what holds it never ends
        children = node.value if isinstance(node.value, list) else []
        parts = (part for child in children for part in _as_nodes(child))
        known[id(node)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(node)]


def _as_nodes(child: yaml.Node | tuple[yaml.Node, yaml.Node]) -> tuple[yaml.Node, ...]:
    return child if isinstance(child, tuple) else (child,)


def load_plain_pickle(path: str | Path) -> Any:
    """Unpickle lists, dictionaries, text, bytes and numbers; anything else is refused unexecuted.

    Byte strings of Python 2 become text (UTF-8).

    Raises:
        UserError: no such file, not a pickle, or one that names a class or a function.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(f"{path}: not a readable pickle ({error})") from error


class _PlainUnpickler(pickle.Unpickler):
    """Knows no class and no function but the one by which Python 3 writes bytes for Python 2."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise UserError(f"asks for {module}.{name}, and a list of names needs no code; refused")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise UserError(f"asks for the codec {encoding!r}; refused")
    return text.encode("latin1")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; some file systems cannot, which is harmless."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
