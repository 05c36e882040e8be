"""Writing files so that a crash, a kill or a full disk never leaves half of one behind."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from transreid_ssl.errors import UserError

# What is being written lies in a folder of such a name beside its place. The file _LOCK in it is
# locked by the process that writes, so that it says of itself whether anybody still does.
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
_LOCK = "transreid_ssl.lock"


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
    _refuse_taken(path)
    with _workplace(path) as temporary:
        temporary.mkdir()
        try:
            yield temporary
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"{path}: writing failed ({error.strerror or error})") from error


@contextlib.contextmanager
def continued_folder(path: str | Path, key: str) -> Iterator[Path]:
    """Yield a folder that becomes ``path`` on success; else it stays, for the same work to go on.

    It lies in ``path``.unfinished meanwhile, locked by this process, and is yielded again as it was
    left to work of the same ``key``. Where nothing was left, nothing stays.

    Raises:
        UserError: ``path`` holds something already or cannot be written; ``path``.unfinished is
            of other work, or at work in another process.
    """
    path = Path(path)
    _refuse_taken(path)
    work = path.with_name(f"{path.name}.unfinished")
    with _taken_up(work, key):
        folder = work / path.name
        try:
            _refuse_taken(path)  # another process may have finished meanwhile
            folder.mkdir(exist_ok=True)
            sweep(folder)
            yield folder
            os.replace(folder, path)
        except OSError as error:
            raise UserError(
                f"{path}: writing failed ({error.strerror or error}); what is finished is kept in "
                f"{work}: free some space and run the same command again"
            ) from error
        finally:
            # Only what is ours goes, and the folders only if nothing else is in them.
            with contextlib.suppress(OSError):
                if folder.is_dir():
                    folder.rmdir()
                (work / _LOCK).unlink()
                work.rmdir()


@contextlib.contextmanager
def _taken_up(work: Path, key: str) -> Iterator[None]:
    """Hold the lock of an unfinished folder, whose file says of which work it is."""
    other = (
        f"{work}: is of other images or settings, or not of this command; remove it, or choose "
        "another folder"
    )
    try:
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()) and not (work / _LOCK).is_file():
            raise UserError(other)
        with open(work / _LOCK, "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{work}: another process is writing there; wait for its end, or choose "
                    "another folder"
                ) from error
            except OSError:
                pass  # a file system without locks
            lock.seek(0)
            if lock.read() != key:
                if len(os.listdir(work)) > 1:
                    raise UserError(other)
                lock.truncate(0)
                lock.write(key)
                lock.flush()
                os.fsync(lock.fileno())
            yield
    except OSError as error:
        raise UserError(
            f"{work}: cannot be written ({error.strerror}); choose another folder"
        ) from error


def _refuse_taken(path: Path) -> None:
    if not path.name:
        raise UserError(f"{path}: give the path of a new folder")
    if path.is_symlink() or os.path.ismount(path):
        raise UserError(
            f"{path}: is a link or a mount, which cannot be replaced; name a folder in it"
        )
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: exists already; choose another folder or remove this one")


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
            link_or_copy(path, kept)
        try:
            yield
        except BaseException:
            if kept.exists():
                os.replace(kept, path)
            else:
                path.unlink(missing_ok=True)
            raise


def link_or_copy(path: Path, other: Path) -> None:
    """Let ``other``, where nothing is yet, be what is at ``path`` now, also when that is replaced.

    It is the same file, which takes no room, where the file system has links.
    """
    try:
        os.link(path, other)
    except OSError:
        shutil.copy2(path, other)


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
        # Paths that are not UTF-8 hold surrogates, which come out as the bytes they stand for.
        digest.update(part.encode(errors="surrogateescape") if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; some file systems cannot, which is harmless."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
