"""Writing files so that a crash, a kill or a full disk never leaves half of one behind.

And reading pickles, which could run any program, so that they run none.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transreid_ssl.errors import UserError
from transreid_ssl.safe_pickle import check_memo

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


@contextlib.contextmanager
def atomic_paths(*paths: str | Path) -> Iterator[list[Path]]:
    """``atomic_path`` for files that belong together: they are all replaced, or none is.

    Raises:
        UserError: as ``atomic_path``; what was there before is there again.
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as renames:
        yield [renames.enter_context(atomic_path(path)) for path in paths]
        for path in paths:
            undo.enter_context(_put_back_on_error(Path(path)))


@contextlib.contextmanager
def _put_back_on_error(path: Path) -> Iterator[None]:
    """If what is inside fails, what is at ``path`` now, or that nothing is, comes back."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        kept = Path(folder) / "before"
        if path.exists():
            try:
                os.link(path, kept)
            except OSError:  # a file system without links
                shutil.copy2(path, kept)
        try:
            yield
        except BaseException:
            if kept.exists():
                os.replace(kept, path)
            else:
                path.unlink(missing_ok=True)
            raise


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


def verify_zip(path: str | Path) -> None:
    """Read a file of ``torch.save`` once and compare all of it with the checksums (CRC-32) in it.

    torch itself does not look at them. About a second for a gigabyte. Files that were written
    without them (``torch.serialization.set_crc32_options(False)``) pass.

    Raises:
        UserError: a checksum differs, or the file is no whole archive of torch.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
            unchecked = not any(record.CRC for record in records)
            broken = None if packed or unchecked else archive.testzip()
    except Exception as error:  # zipfile meets damage with nearly any of them
        raise UserError(
            f"{path}: not a weights file, or damaged ({_brief(error)}); download or write it again"
        ) from error
    if packed:
        raise UserError(f"{path}: its records are compressed, and torch never writes such files")
    if broken is not None:
        raise UserError(
            f"{path}: damaged: the checksum of {broken} differs; download or write it again"
        )


def _brief(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:80] or type(error).__name__


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """A 16-hex-digit digest of a sequence of strings, the same on every machine and run."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


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
        check_memo(content)
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
