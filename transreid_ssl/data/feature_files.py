"""Files of features: as many rows as there are images, written as they come, and read again."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transreid_ssl.data.index import Names
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.pool import Pool
from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, atomic_paths
from transreid_ssl.parts import rows
from transreid_ssl.tables import encode_record, read_columns, read_record

SUFFIXES = (".safetensors", ".npy", ".parquet")
_HEADER_BYTES = 4096  # of the file of features; the header is written last, when all is known

Batch = tuple[np.ndarray, np.ndarray]
"""Places in the pool int64 (B,), and the features of the images there float32 (B, D)."""


def names_path(out: Path) -> Path | None:
    """Where the names of the rows go; None for a Parquet table, which has them itself."""
    return None if out.suffix == ".parquet" else out.with_suffix(".parquet")


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
        return path.suffix in SUFFIXES and path.is_file()
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
    out: Path, batches: Iterable[Batch], pool: Pool, dim: int, about: dict[str, str]
) -> int:
    """Write features and the names of their images: both files appear, or none.

    Args:
        batches: in the order of the rows.
        dim: values of a feature.
        about: what the files say of themselves.

    Returns:
        The number of rows.

    Raises:
        UserError: nothing to write, or a file that cannot be written.
    """
    names = names_path(out)
    if names is None:
        with atomic_path(out) as temporary:
            return _write_table(temporary, batches, pool, dim, about)
    with atomic_paths(out, names) as (temporary, table):
        places = _write_rows(temporary, out.suffix, batches, dim, about)
        columns = pa.table({"image": pool.arrow_names().take(places).column})
        pq.write_table(columns.replace_schema_metadata(encode_record(about)), table)
    return len(places)


def _write_rows(
    path: Path, suffix: str, batches: Iterable[Batch], dim: int, about: dict[str, str]
) -> np.ndarray:
    places = [np.empty(0, np.int64)]
    with open(path, "wb") as file:
        file.seek(_HEADER_BYTES)
        for index, features in batches:
            features.astype("<f4", copy=False).tofile(file)
            places.append(index)
        written = np.concatenate(places)
        _check_any(len(written))
        _write_header(file, suffix, (len(written), dim), about)
    return written


def _write_table(
    path: Path, batches: Iterable[Batch], pool: Pool, dim: int, about: dict[str, str]
) -> int:
    feature = pa.list_(pa.float32(), dim)
    schema = pa.schema({"image": pa.string(), "feature": feature}, encode_record(about))
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for index, features in batches:
            names = pool.arrow_names().take(index).column
            chunk = pa.table({"image": names.cast(pa.string()), "feature": rows(features)})
            writer.write_table(chunk.replace_schema_metadata(schema.metadata))
            count += len(index)
        _check_any(count)
    return count


def _check_any(count: int) -> None:
    if not count:
        raise UserError("no image could be embedded, so nothing was written")


def _write_header(
    file: BinaryIO, suffix: str, shape: tuple[int, int], about: dict[str, str]
) -> None:
    """Fill the reserved space; both formats let a header be padded with spaces."""
    if suffix == ".npy":
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", _HEADER_BYTES - 10)
        text = repr({"descr": "<f4", "fortran_order": False, "shape": shape})
        header = start + text.encode().ljust(_HEADER_BYTES - 11) + b"\n"
    else:
        tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]}
        text = json.dumps({"__metadata__": about, "features": tensor})
        start = struct.pack("<Q", _HEADER_BYTES - 8)
        header = start + text.encode().ljust(_HEADER_BYTES - 8)
    if len(header) != _HEADER_BYTES:
        raise UserError(f"the header of {len(header)} bytes is too long: shorten the paths")
    file.seek(0)
    file.write(header)


def read_features(path: str | Path) -> tuple[Names, np.ndarray]:
    """The names of the rows, and the rows float32 (N, D), mapped from the file where it can be.

    Raises:
        UserError: no such file, not one that ``write_features`` writes, or its names are missing.
    """
    path = Path(path)
    check_suffix(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; make it with `{_MADE_BY}`")
    table = names_path(path) or path
    columns = ["image"] if table != path else ["image", "feature"]
    found = read_columns(table, *columns, made_by=_MADE_BY)
    try:
        names = Names(found["image"].cast(pa.large_string()).combine_chunks())
        rows = _table_rows(found) if table == path else _mapped_rows(path)
    except _ODD as error:
        raise UserError(f"{path}: not a file of features; make it with `{_MADE_BY}`") from error
    if rows.ndim != 2 or len(rows) != len(names):
        raise UserError(f"{path}: {len(rows)} rows, but {len(names)} names in {table}")
    return names, rows


# What a file of another kind, or a damaged one, makes its readers raise.
_ODD = (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, struct.error)
_ODD += (pa.ArrowException,)
_MADE_BY = "python -m transreid_ssl.embed"


def _table_rows(table: pa.Table) -> np.ndarray:
    features = table["feature"].combine_chunks()
    return features.flatten().to_numpy().reshape(len(features), -1)


def _mapped_rows(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        if size > path.stat().st_size:
            raise ValueError("longer than the file")
        about = json.loads(file.read(size))["features"]
    if about["dtype"] != "F32":
        raise ValueError(about["dtype"])
    offset = 8 + size + about["data_offsets"][0]
    return np.memmap(path, "<f4", "r", offset, tuple(about["shape"]))
