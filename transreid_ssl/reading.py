"""Reading what others wrote: text in any encoding, archives with checksums, and pickles.

A pickle could run any program: here it runs none, and takes no more memory than its size explains.
"""

import errno
import io
import json
import os
import pickle
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transreid_ssl.errors import UserError, brief

_AT_ONCE = os.O_NONBLOCK


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


def read_object(path: str | Path) -> dict[str, Any] | None:
    """What a JSON file holds; None where it is no object, damaged or of something else.

    Raises:
        OSError: it cannot be read.
    """
    try:
        found = json.loads(read_regular(path))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


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
            f"{path}: not a weights file, or damaged ({brief(error)}); download or write it again"
        ) from error
    if packed:
        raise UserError(f"{path}: its records are compressed, and torch never writes such files")
    if broken is not None:
        raise UserError(
            f"{path}: damaged: the checksum of {broken} differs; download or write it again"
        )
