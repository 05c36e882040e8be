"""Files of features: as many rows as there are images, written as they come, and read again.

A Parquet table has all in one: image, camera and track where the pool knows them, and feature, a
list of fixed length. A .npy or .safetensors file has a table without features beside it. A faiss
index (.faiss), of the same rows, may stand beside either.
"""

import itertools
import json
import math
import operator
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transreid_ssl.data.index import Names
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.pool import Pool
from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_paths
from transreid_ssl.parts import rows
from transreid_ssl.tables import encode_record, read_columns, read_record
from transreid_ssl.words import counted

SUFFIXES = (".parquet", ".npy", ".safetensors")
INDEX = ".faiss"
DTYPES = {"float32": "<f4", "float16": "<f2"}
_SAFE = {"float32": "F32", "float16": "F16"}
_WHENCE = ["camera", "track"]  # columns of what a pool knows of its images
_HEADER_BYTES = 4096  # of the file of features; the header is written last, when all is known

Batch = tuple[np.ndarray, np.ndarray]
"""Places in the pool int64 (B,), and the features of the images there float32 (B, D)."""


def names_path(out: Path) -> Path | None:
    """Where the names of the rows go; None for a Parquet table, which has them itself."""
    return None if out.suffix == ".parquet" else out.with_suffix(".parquet")


def index_path(out: Path) -> Path:
    """Where the faiss index of these rows goes."""
    return out.with_suffix(INDEX)


def is_index(path: Path) -> bool:
    """Whether a file begins as faiss begins the graphs that are written here."""
    with open(path, "rb") as file:
        return file.read(4) == b"IHNf"


def about(path: str | Path) -> dict[str, Any]:
    """What a file of features says of itself: weights, pool, flip…; what is not known is missing.

    Raises:
        UserError: the table of names is missing or unreadable.
    """
    return read_record(names_path(Path(path)) or path)


def read_index(path: str | Path) -> bytes:
    """The bytes of a faiss index, which are those that ``write_features`` wrote.

    Raises:
        UserError: no such file, or not of the features beside it, or damaged.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if about(path).get("index") != zlib.crc32(content):
        raise UserError(
            f"{path}: is damaged, or not of the features beside it; make it again with `{_MADE_BY} "
            "--index true`"
        )
    return content


def is_table_of_names(path: Path) -> bool:
    """Whether a file is a table of names that was written beside features."""
    try:
        return {"weights", "pool", "fingerprint"} <= read_record(path).keys()
    except UserError:
        return False


def is_features(path: str | Path) -> bool:
    """Whether a file holds features, as ``write_features`` writes it: not images or a list."""
    path = Path(path)
    if path.suffix != ".parquet" or not path.is_file():
        return path.suffix in (*SUFFIXES, INDEX) and path.is_file()
    return is_table_of_names(path) and "feature" in pq.read_schema(path).names


def images_of(path: str | Path) -> Pool | None:
    """The images that the rows of a file of features are of, in order; None if they are gone."""
    table = names_path(Path(path)) or path
    try:
        return open_pool(read_record(table).get("pool", ""), table)
    except UserError:
        return None


def check_suffix(out: Path) -> None:
    """Raise ``UserError`` for a file of another kind."""
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out}: write features to a file named {' or '.join(SUFFIXES)}")


def write_features(
    out: Path,
    batches: Iterable[Batch],
    pool: Pool,
    dim: int,
    about: dict[str, Any],
    dtype: str = "float32",
    index: bytes | None = None,
) -> int:
    """Write features and the names of their images: all files appear, or none.

    Args:
        batches: in the order of the rows.
        dim: values of a feature.
        about: what the files say of themselves.
        dtype: one of ``DTYPES``, of the features.
        index: of a faiss index to write beside.

    Returns:
        The number of rows.

    Raises:
        UserError: nothing to write, or a file that cannot be written.
    """
    names = names_path(out)
    about = about | {} if index is None else about | {"index": zlib.crc32(index)}
    beside = [path for path in (names, index is not None and index_path(out)) if path]
    with atomic_paths(out, *beside) as (temporary, *others):
        if index is not None:
            others[-1].write_bytes(index)
        if names is None:
            return _write_table(temporary, batches, pool, dim, about, dtype)
        places = _write_rows(temporary, out.suffix, batches, dim, about, dtype)
        columns = pa.table(_known(pool, places)).replace_schema_metadata(encode_record(about))
        pq.write_table(columns, others[0], write_page_checksum=True)
    return len(places)


def _known(pool: Pool, places: np.ndarray) -> dict[str, pa.Array]:
    """The names of these images, and their cameras and tracks if the pool knows them."""
    columns = {"image": pool.arrow_names().take(places).column.cast(pa.string())}
    if pool.annotations is not None:
        found = pool.annotations.select(_WHENCE).take(places)
        columns |= {name: found[name].cast(pa.string()) for name in _WHENCE}
    return columns


def _write_rows(
    path: Path, suffix: str, batches: Iterable[Batch], dim: int, about: dict[str, Any], dtype: str
) -> np.ndarray:
    places = [np.empty(0, np.int64)]
    with open(path, "wb") as file:
        file.seek(_HEADER_BYTES)
        for index, features in batches:
            features.astype(DTYPES[dtype], copy=False).tofile(file)
            places.append(index)
        written = np.concatenate(places)
        _check_any(len(written))
        _write_header(file, suffix, (len(written), dim), about, dtype)
    return written


def _write_table(
    path: Path, batches: Iterable[Batch], pool: Pool, dim: int, about: dict[str, Any], dtype: str
) -> int:
    whence = [] if pool.annotations is None else _WHENCE
    feature = pa.list_({"float32": pa.float32(), "float16": pa.float16()}[dtype], dim)
    columns = [(name, pa.string()) for name in ("image", *whence)]
    schema = pa.schema([*columns, ("feature", feature)], encode_record(about))
    count = 0
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for index, features in batches:
            values = rows(features.astype(DTYPES[dtype], copy=False))
            chunk = pa.table(_known(pool, index) | {"feature": values})
            writer.write_table(chunk.replace_schema_metadata(schema.metadata))
            count += len(index)
        _check_any(count)
    return count


def _check_any(count: int) -> None:
    if not count:
        raise UserError("no image could be embedded, so nothing was written")


def _write_header(
    file: BinaryIO, suffix: str, shape: tuple[int, int], about: dict[str, Any], dtype: str
) -> None:
    """Fill the reserved space; both formats let a header be padded with spaces."""
    if suffix == ".npy":
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", _HEADER_BYTES - 10)
        text = repr({"descr": DTYPES[dtype], "fortran_order": False, "shape": shape})
        header = start + text.encode().ljust(_HEADER_BYTES - 11) + b"\n"
    else:
        size = np.dtype(DTYPES[dtype]).itemsize * shape[0] * shape[1]
        tensor = {"dtype": _SAFE[dtype], "shape": shape, "data_offsets": [0, size]}
        said = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in about.items()
        }
        text = json.dumps({"__metadata__": said, "features": tensor})
        start = struct.pack("<Q", _HEADER_BYTES - 8)
        header = start + text.encode().ljust(_HEADER_BYTES - 8)
    if len(header) != _HEADER_BYTES:
        raise UserError(f"the header of {len(header)} bytes is too long: shorten the paths")
    file.seek(0)
    file.write(header)


class FileRows:
    """Rows (N, D) of a file, read as float32 when asked for; ``np.asarray`` reads them all.

    They are not mapped into memory: to touch what another program has cut off a mapped file ends
    the process.

    Raises:
        ValueError, TypeError: no shape or no numbers, or more than the file holds.
    """

    def __init__(self, path: Path, dtype: Any, offset: int, shape: Sequence[int]) -> None:
        self._path, self._dtype, self._offset = path, np.dtype(dtype), operator.index(offset)
        self.shape: tuple[int, ...] = tuple(map(operator.index, shape))
        self.dtype: np.dtype = np.dtype(np.float32)
        self.ndim: int = len(self.shape)
        if self._dtype.kind not in "fiu" or min(offset, *self.shape) < 0:
            raise ValueError("no numbers in rows")
        if path.stat().st_size < offset + self._dtype.itemsize * math.prod(self.shape):
            raise ValueError("shorter than its header says")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Some rows (M, D): a slice of them, or int64 (M,) from 0 on, best in ascending order.

        Raises:
            IndexError: there are not so many.
        """
        # Nothing here takes the time of all rows: a few are asked for once for each of many tracks.
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"{self._path} has {len(self)} rows")
        found = np.empty((len(rows), *self.shape[1:]), self._dtype)
        ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        try:
            with open(self._path, "rb") as file:
                for start, end in itertools.pairwise([0, *ends]):
                    part = found[start:end]
                    if len(part):
                        file.seek(self._offset + int(rows[start]) * part[0].nbytes)
                    if file.readinto(part) < part.nbytes:
                        raise OSError("is cut short")
        except OSError as error:
            cause = error.strerror or error
            raise UserError(
                f"{self._path}: cannot be read any more ({cause}); make it with `{_MADE_BY}`"
            ) from error
        return found.astype(np.float32, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)


def read_features(path: str | Path) -> tuple[Names, "np.ndarray | FileRows"]:
    """The names of the rows, and the rows float32 (N, D), which stay in the file where they can.

    Of an index, those of the file beside it.

    Raises:
        UserError: no such file, not one that ``write_features`` writes, or its names are missing.
    """
    path = _rows_beside(Path(path))
    check_suffix(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; make it with `{_MADE_BY}`")
    table = names_path(path) or path
    columns = ["image"] if table != path else ["image", "feature"]
    found = read_columns(table, *columns, made_by=_MADE_BY)
    try:
        names = Names(found["image"].cast(pa.large_string()).combine_chunks())
        rows = _table_rows(found) if table == path else _rows_of(path)
    except _ODD as error:
        raise UserError(f"{path}: not a file of features; make it with `{_MADE_BY}`") from error
    if rows.ndim != 2 or len(rows) != len(names):
        raise UserError(
            f"{path}: {counted(len(rows), 'row')}, but {counted(len(names), 'name')} in {table}"
        )
    return names, rows


def _rows_beside(path: Path) -> Path:
    """The file of features that an index is of; any other file is one itself."""
    if path.suffix != INDEX:
        return path
    table = path.with_suffix(".parquet")
    found = [path.with_suffix(suffix) for suffix in SUFFIXES[1:]]
    return next(filter(Path.is_file, found), table) if "feature" not in _columns(table) else table


def _columns(table: Path) -> list[str]:
    read_record(table)
    return pq.read_schema(table).names


# What a file of another kind, or a damaged one, makes its readers raise.
_ODD = (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, struct.error)
_ODD += (pa.ArrowException,)
_MADE_BY = "python -m transreid_ssl.embed"


def _table_rows(table: pa.Table) -> np.ndarray:
    features = table["feature"].combine_chunks()
    values = features.flatten().to_numpy().astype(np.float32, copy=False)
    return values.reshape(len(features), -1)


def _rows_of(path: Path) -> np.ndarray | FileRows:
    if path.suffix == ".npy":
        header = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, and never touched
        if not header.flags.c_contiguous:
            return np.load(path, allow_pickle=False).astype(np.float32)
        return FileRows(path, header.dtype, header.offset, header.shape)
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        if size > path.stat().st_size:
            raise ValueError("longer than the file")
        about = json.loads(file.read(size))["features"]
    kinds = {_SAFE[name]: kind for name, kind in DTYPES.items()}
    offset = 8 + size + about["data_offsets"][0]
    return FileRows(path, kinds[about["dtype"]], offset, about["shape"])
