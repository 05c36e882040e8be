"""Writing files so that a crash, a kill or a full disk never leaves half of one behind.

And reading what others wrote: text in any encoding, and pickles, which could run any program, so
that they run none and take no more memory than their size explains.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from transreid_ssl.errors import UserError

# What is being written lies in a folder of such a name beside its place. The file _LOCK in it is
# locked by the process that writes, so that it says of itself whether anybody still does.
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
_LOCK = "transreid_ssl.lock"
_AT_ONCE = os.O_NONBLOCK


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is fsynced and renamed onto ``path``.

    On any failure the temporary file is removed and ``path`` keeps its old content. What a killed
    process left half written in the same folder is removed first (``sweep``).

    Raises:
        UserError: the disk is full, the folder cannot be written, a file-size limit was met, or
            ``path`` is itself a folder.
    """
    path = Path(path)
    refuse_folder(path)
    with _workplace(path) as temporary:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)  # what the process's mask gives a new file
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(mode)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except OSError as error:
            raise UserError(
                f"{path}: writing failed ({error.strerror or error}); what was there before is "
                "untouched: free some space and run the same command again"
            ) from error


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` on success and vanishes otherwise.

    What a killed process left half written beside ``path`` is removed first (``sweep``).

    Raises:
        UserError: ``path`` holds something already, or cannot be written.
    """
    path = Path(path)
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: exists already; choose another folder or remove this one")
    with _workplace(path) as temporary:
        temporary.mkdir()
        try:
            yield temporary
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"{path}: writing failed ({error.strerror or error})") from error


@contextlib.contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Yield a free path of the same name in a locked temporary folder beside ``path``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        # A name may have 255 bytes, and path.name may have them all.
        prefix = f".{path.name.encode()[:200].decode(errors='ignore')}."
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=path.parent))
        lock = _lock(folder)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    try:
        with lock:
            yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> BinaryIO:
    """The locked file of a temporary folder; it gets its name when the lock is held already."""
    waiting = folder / "waiting"
    lock = open(waiting, "wb")  # noqa: SIM115
    with contextlib.suppress(OSError):  # a file system without locks: then nobody can sweep either
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    waiting.rename(folder / _LOCK)
    return lock


def sweep(folder: str | Path) -> list[Path]:
    """Remove what processes that are gone left half written in ``folder``; returns what it was.

    Only temporary folders of ``atomic_path`` and ``new_folder`` are looked at, and only those go
    whose lock nobody holds: a process that is killed loses its lock, on whatever machine it ran.
    """
    removed = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError), open(Path(entry.path, _LOCK), "rb+") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry.path)
                    removed.append(Path(entry.path))
    return removed


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
        # Paths that are not UTF-8 hold surrogates, which come out as the bytes they stand for.
        digest.update(part.encode(errors="surrogateescape") if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


def read_regular(path: str | Path, limit: int = -1) -> bytes:
    """The bytes of a regular file, or of its first ``limit`` ones.

    Raises:
        OSError: it cannot be read, or is a folder, a pipe or a device.
    """
    try:
        # A pipe would be waited for until somebody writes into it.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AT_ONCE)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            return file.read(min(limit, status.st_size))
    except ValueError as error:
        raise OSError(errno.EINVAL, f"no possible file name: {error}") from error


def read_content(path: str | Path, limit: int = -1) -> bytes:
    """The same for a file that a user gives.

    Raises:
        UserError: no such file, or it cannot be read.
    """
    try:
        return read_regular(path, limit)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a file") from error


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file: UTF-8 with or without a byte order mark, any line ends.

    Raises:
        UserError: no such file, or it is not UTF-8 text.
    """
    if b"\0" in read_content(path, 1 << 16):
        raise UserError(f"{path}: is not UTF-8 text; give a text file, saved as UTF-8")
    try:
        text = read_content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} is not UTF-8 text; save the file as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{path}: is not UTF-8 text; give a text file, saved as UTF-8")
    # str.splitlines would also cut names in two at rarer characters, such as a form feed.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def load_plain_pickle(path: str | Path) -> Any:
    """Unpickle lists, dictionaries, text, bytes and numbers; anything else is refused unexecuted.

    Byte strings of Python 2 become text (UTF-8). Memory is in proportion to the size of the file.

    Raises:
        UserError: no such file, not a pickle, or one that names a class or a function.
    """
    content = read_content(path)
    try:
        return _PlainUnpickler(content).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a broken pickle raises nearly anything
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not a readable pickle ({reason})") from error


class _Opcodes(dict):
    """What the opcodes of plain values do; any other is refused."""

    def __missing__(self, opcode: int) -> Callable:
        raise pickle.UnpicklingError(f"opcode {opcode:#04x}, which no plain value needs")


_PLAIN = """
    PROTO FRAME STOP MARK POP POP_MARK DUP
    GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    GLOBAL STACK_GLOBAL REDUCE
"""


class _PlainUnpickler(pickle._Unpickler):
    """Knows no class and no function but the one by which Python 3 writes bytes for Python 2.

    This is Python's own unpickler in Python: two seconds slower for a million names than the one in
    C, which sets as much memory aside as a number in the pickle asks for.
    """

    dispatch = _Opcodes(
        (code, pickle._Unpickler.dispatch[code])
        for code in (getattr(pickle, name)[0] for name in _PLAIN.split())
    )

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self._left = len(content)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        raise UserError(f"asks for {module}.{name}, and a list of names needs no code; refused")

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise UserError(f"asks for the codec {encoding!r}; refused")
        self._left -= len(text)
        if self._left < 0:  # one long text encoded again and again
            raise UserError("unfolds to more bytes than it has; refused")
        return text.encode("latin1")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; some file systems cannot, which is harmless."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
