"""From a file to tensors and plain values. Here, and nowhere later, a file's damage shows."""

import argparse
import contextlib
import json
import pickle
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from transreid_ssl.errors import UserError, brief
from transreid_ssl.machine import available_memory, processes_here
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.reading import verify_zip

HEADER, CHECKSUM = "transreid_ssl", "transreid_ssl_crc32"
"""The keys of the spec, and of the checksum of it and all tensors, in our safetensors' metadata."""

# The function that a pickled NumPy number names; where it lives depends on NumPy's version.
_SCALAR = np.float64(0).__reduce__()[0]
# What published checkpoints hold beside tensors, and nothing that can run code. Files written with
# NumPy 1 name the same functions differently than those of NumPy 2.
_SAFE_GLOBALS = [
    argparse.Namespace,
    np.dtype,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    *sorted({type(np.dtype(kind)) for kind in "?bhilBHILefd"}, key=str),
]
_MAX_NAME = 300


def checksum(tensors: Mapping[str, Tensor], spec: str) -> str:
    """CRC-32, 8 hex digits, of names, types, shapes and bytes of tensors, and of the spec's text.

    A third of a second for a ViT-B.
    """
    crc = zlib.crc32(spec.encode())
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.contiguous().reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], BackboneSpec | None]:
    """The tensors and, where the file is ours, its spec; the file itself is not needed any more.

    Nothing of it is mapped into memory: of a mapped file that another program cuts short, the next
    use of a tensor ends the process, by a signal and without a word.

    Raises:
        UserError: a damaged file, also by its checksum if it has one, or a header that cannot be.
    """
    with _parsing(path):
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)  # which has looked at the header
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    expected = metadata.get(CHECKSUM)
    if expected is not None and expected != checksum(tensors, metadata.get(HEADER, "")):
        raise UserError(f"{path}: damaged: its checksum differs; download or write it again")
    return tensors, _spec_in(path, metadata)


def read_header(path: Path) -> BackboneSpec | None:
    """The spec in the header of a safetensors file, without reading its tensors; None without one.

    Raises:
        UserError: a damaged file, or a header that this version cannot read.
    """
    with _parsing(path), safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return _spec_in(path, metadata)


def _spec_in(path: Path, metadata: Mapping[str, str]) -> BackboneSpec | None:
    return parse_spec(path, metadata[HEADER]) if HEADER in metadata else None


def parse_spec(path: Path, text: Any) -> BackboneSpec:
    """The spec that a file holds as text.

    Raises:
        UserError: it cannot be read, or no network can be like it.
    """
    try:
        return BackboneSpec.from_json(text)
    except (ValueError, TypeError, OverflowError, RecursionError, UserError) as error:
        raise UserError(
            f"{path}: its header cannot be read ({brief(error)}); it may be of a newer version "
            "(upgrade then), or damaged"
        ) from error


def read_pickle(path: Path) -> Any:
    """``torch.load`` of tensors, plain containers and the classes listed above, only.

    Raises:
        UserError: damage, also by the checksums that newer files have, or a class that is refused.
    """
    with _parsing(path), open(path, "rb") as file:
        zipped = file.read(4) == b"PK\3\4"
    if zipped:
        verify_zip(path)
    with _parsing(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old protocol, or of what damage looks like
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            # Mapped, a file costs no memory for what is not used, as optimizers are. But see above.
            needed = 2 * path.stat().st_size * processes_here()  # which all read it
            mapped = zipped and needed > available_memory()
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def plain_tensors(path: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict by their names; what is no tensor is left out.

    Raises:
        UserError: a tensor that is not simply numbers in memory, or that is larger than its file.
    """
    size = path.stat().st_size
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        odd = value.layout != torch.strided or value.is_quantized or value.is_complex()
        if odd or value.device.type != "cpu" or len(name) > _MAX_NAME:
            kind = f"{value.dtype}, {value.layout}, on {value.device.type}"
            raise UserError(
                f"{path}: {name[:_MAX_NAME]} is no plain tensor ({kind}); save it dense, on the CPU"
            )
        if value.numel() * value.element_size() > size:
            raise UserError(f"{path}: {name} claims more values than the file holds; damaged")
    return tensors


@contextlib.contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Turn whatever the parser of a file inside raises into one line: it may be anything."""
    try:
        yield
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise _damaged(path, "not a file of torch.save") from error
        raise UserError(
            f"{path}: holds a {found[1]}, which is refused because unpickling it could run code; "
            "save only its tensors, with the program that wrote it"
        ) from error
    except Exception as error:
        raise _damaged(path, brief(error)) from error


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: not a weights file, or damaged ({reason}); download or write it again"
    )
