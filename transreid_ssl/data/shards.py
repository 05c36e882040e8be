"""Pools in Parquet shards: the layout of HuggingFace ``datasets`` and its hub, written and read."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch.utils.data import Dataset

from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.index import Names, cached_names
from transreid_ssl.data.lists import is_text
from transreid_ssl.data.loader import open_loader
from transreid_ssl.data.pool import Pool, file_stamp
from transreid_ssl.data.shard_rows import open_rows
from transreid_ssl.data.track_columns import COLUMNS, TEXTS
from transreid_ssl.errors import UserError, brief
from transreid_ssl.files import atomic_path

_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "bytes")
_FEATURES = {  # tells ``datasets`` that the column holds images
    "huggingface": json.dumps(
        {
            "info": {
                "features": {
                    "image": {"_type": "Image"},
                    "name": {"dtype": "string", "_type": "Value"},
                }
            }
        }
    )
}
# In a shard's metadata, in JSON: the places of images that were left out, and why.
_LEFT_OUT = "transreid_ssl.left_out"
_ROW_GROUP = 1_000  # images
_WRITTEN_AT_ONCE = 16  # images: a page ends between them when it has a megabyte
_NAME_COLUMNS = ("name", "image_path", "file_name", "path", "__key__")


class ParquetShardsPool(Pool):
    """Images in the rows of Parquet files.

    Files that are not compressed, as ``data pack`` writes them, are read where they lie; others
    are opened by ``datasets``, which decodes them into its cache first (``shard_rows``). Names come
    from a text column (``name``, ``path``, …) or from the paths stored within the images, as long
    as they are unique; otherwise they are ``<shard>:<row>``.
    """

    kind = "Parquet shards"

    def __init__(self, path: str | Path, ready: bool = True) -> None:
        shards = find_shards(path)
        if not shards:
            raise UserError(f"{path}: no Parquet file with an image column in it")
        self._column = image_column(shards[0]) or ""
        state = _state(shards)
        names, notes = cached_names(
            f"shards {Path(path).resolve()}",
            is_current=lambda known: known == state,
            build=lambda: (_read_shard_names(shards, self._column), state),
        )
        if not len(names):
            raise UserError(f"{path}: no row in it")
        self._shards = shards
        self._rows = _read_from(path, lambda _: open_rows(shards, self._column, len(names), ready))
        if _state(shards) != state:
            raise UserError(f"{path}: a shard was written meanwhile: run the same command again")
        super().__init__(str(path), names, [*notes, *filter(None, [self._rows.note])])

    @cached_property
    def annotations(self) -> pa.Table | None:
        """The columns of cameras, tracks and frames, if every shard has them."""
        parts = [_read_from(shard, _read_annotations) for shard in self._shards]
        if any(part is None for part in parts):
            return None
        return pa.concat_tables(parts).unify_dictionaries().combine_chunks()

    def stamps(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """Of the shard that holds each image."""
        held_by = np.searchsorted(self._ends, places, side="right")
        numbers, which = np.unique(held_by, return_inverse=True)
        found = [file_stamp(self._shards[number]) for number in numbers.tolist()]
        return np.array(found, np.int64).reshape(-1, 2)[which]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([_read_from(one, pq.read_metadata).num_rows for one in self._shards])

    def read(self, index: int) -> bytes:
        """The bytes stored in the row."""
        try:
            encoded = self._rows.read(int(index))
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = f"the shard cannot be read ({brief(error)})"
            raise CorruptImage(self.names[index], reason) from error
        if encoded is None:
            raise CorruptImage(self.names[index], "the row holds no bytes")
        return encoded


def _state(shards: list[Path]) -> dict[str, list[list[Any]]]:
    """What tells that the files are still those whose names are known."""
    stamps = ((shard.name, shard.stat()) for shard in shards)
    return {"shards": [[name, stamp.st_mtime_ns, stamp.st_size] for name, stamp in stamps]}


def find_shards(path: str | Path) -> list[Path]:
    """The Parquet files with an image column for the path a user gave, sorted; may be empty."""
    path = Path(path)
    if path.is_file():
        found = [path] if path.suffix == ".parquet" else []
    else:
        found = _parquet_files(path) or _parquet_files(path / "data")
    return found if found and image_column(found[0]) else []


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if path.is_file())


def image_column(shard: Path) -> str | None:
    """The column of a Parquet file that holds encoded images, or None."""
    try:
        schema = pq.read_schema(shard)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{shard}: not a readable Parquet file ({brief(error)})") from error
    for name in (*_IMAGE_COLUMNS, *schema.names):
        if name in schema.names and _holds_bytes(schema.field(name).type):
            return name
    return None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _read_shard_names(shards: list[Path], column: str) -> Names:
    for read in (_names_from_column, lambda shard: _names_from_paths(shard, column)):
        parts = [_read_from(shard, read) for shard in shards]
        if all(part is not None for part in parts):
            chunks = [chunk for part in parts for chunk in part.chunks]
            names = pa.chunked_array(chunks, pa.large_string())
            if not names.null_count and pc.count_distinct(names).as_py() == len(names):
                return Names(names.combine_chunks())
    counts = [(shard, _read_from(shard, pq.read_metadata).num_rows) for shard in shards]
    return Names.of([f"{shard.name}:{row}" for shard, count in counts for row in range(count)])


def _read_from(shard: str | Path, read: Callable[[Any], Any]) -> Any:
    """Call ``read``; what Arrow says of a damaged file becomes one line."""
    try:
        return read(shard)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UserError(f"{shard}: not a readable Parquet file ({brief(error)})") from error


def _names_from_column(shard: Path) -> pa.ChunkedArray | None:
    schema = pq.read_schema(shard)
    for name in _NAME_COLUMNS:
        if name in schema.names and is_text(schema.field(name).type):
            return _checked_text(pq.read_table(shard, columns=[name]).column(name))
    return None


def _names_from_paths(shard: Path, column: str) -> pa.ChunkedArray | None:
    kind = pq.read_schema(shard).field(column).type
    paths = [field for field in kind if field.name == "path"] if pa.types.is_struct(kind) else []
    if not paths or not is_text(paths[0].type):
        return None
    images = pq.ParquetFile(shard).read(columns=[f"{column}.path"]).column(column)
    return _checked_text(pc.struct_field(images, "path"))


def _checked_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    column = column.cast(pa.large_string())
    column.validate(full=True)  # Arrow reads text without a look at whether it is UTF-8
    return column


def _read_annotations(shard: Path) -> pa.Table | None:
    """The columns that say where the images are from; None if one lacks, or is of another type."""
    schema = pq.read_schema(shard)
    if not all(
        field.name in schema.names and schema.field(field.name) == field for field in COLUMNS
    ):
        return None
    table = pq.read_table(shard, columns=COLUMNS.names, read_dictionary=TEXTS)
    table = pa.table({name: table.column(name) for name in COLUMNS.names})
    table.validate(full=True)  # as of names: Arrow reads text without a look at it
    return None if any(table.column(name).null_count for name in (*TEXTS, "frame")) else table


def write_shards(
    pool: Pool, folder: Path, rows_per_shard: int = 20_000, num_workers: int = 0
) -> Iterator[str | None]:
    """Write ``pool`` as Parquet shards into ``folder``, broken images left out.

    Columns are ``image`` (bytes and path, as ``datasets`` expects it) and ``name``, and those of
    ``track_columns`` where the pool has them. Shards that are there already stay, if their
    checksums hold and what was left out of them is still broken. Yields once an image: None, or why
    it was left out; with ``num_workers`` processes, which change nothing in the shards, a shard's
    images come together.

    Raises:
        UserError: a shard that is there holds other images.
    """
    shards = np.array_split(np.arange(len(pool)), max(1, -(-len(pool) // rows_per_shard)))
    work = _ShardsToWrite(pool, folder, shards)
    if num_workers:
        outcomes = open_loader(work, num_workers, batch_size=None, collate_fn=list)
    else:
        outcomes = (work.written(number) for number in range(len(work)))
    for shard in outcomes:
        yield from shard


class _ShardsToWrite(Dataset):
    """Shard files as items: to ask for one writes it, if it is not there."""

    def __init__(self, pool: Pool, folder: Path, shards: list[np.ndarray]) -> None:
        self.pool, self.folder, self.shards = pool, folder, shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: int) -> list[str | None]:
        return list(self.written(number))

    def written(self, number: int) -> Iterator[str | None]:
        """Yields what became of each image of one shard."""
        indices = self.shards[number]
        path = self.folder / f"train-{number:05d}-of-{len(self):05d}.parquet"
        left_out = _left_out(path, self.pool, indices)
        if left_out is None:
            yield from _write_shard(path, self.pool, indices)
        else:
            yield from left_out
            yield from [None] * (len(indices) - len(left_out))


def _write_shard(path: Path, pool: Pool, indices: np.ndarray) -> Iterator[str | None]:
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    known = [] if pool.annotations is None else COLUMNS
    schema = pa.schema([("image", image), ("name", pa.string()), *known], _FEATURES)
    left_out = {}
    with (
        atomic_path(path) as temporary,
        # JPEG does not compress further; a dictionary or the limits of images serve nobody.
        pq.ParquetWriter(
            temporary,
            schema,
            compression="none",
            use_dictionary=TEXTS if known else False,
            write_statistics=["name"],
            write_batch_size=_WRITTEN_AT_ONCE,  # a page that is damaged later costs few images
            write_page_checksum=True,
        ) as writer,
    ):
        images = pool.read_in_order(indices.tolist())
        # Small row groups keep memory low while writing and while ``datasets`` reads them.
        for start in range(0, len(indices), _ROW_GROUP):
            rows, kept = [], []
            for index, encoded in zip(indices[start : start + _ROW_GROUP].tolist(), images):
                if isinstance(encoded, CorruptImage):
                    left_out[index] = str(encoded)
                    yield str(encoded)
                    continue
                name = pool.names[index]
                rows.append({"image": {"bytes": encoded, "path": name}, "name": name})
                kept.append(index)
                yield None
            if kept:  # an empty group is more than ``datasets`` can read
                writer.write_table(_with_annotations(pool, kept, rows, schema))
        writer.add_key_value_metadata({_LEFT_OUT: json.dumps(left_out)})


def _with_annotations(
    pool: Pool, indices: list[int], rows: list[dict[str, Any]], schema: pa.Schema
) -> pa.Table:
    """A table of ``schema`` of images and names, and what the pool knows of them."""
    table = pa.Table.from_pylist(rows, pa.schema(list(schema)[:2]))
    for field in list(schema)[2:]:
        values = pool.annotations.column(field.name).take(pa.array(indices))
        table = table.append_column(field, values.cast(field.type))
    return table.cast(schema)


def _left_out(path: Path, pool: Pool, indices: np.ndarray) -> list[str] | None:
    """Why images were left out of a finished shard; None if it has to be made (again).

    The first image of every thousand is compared with the pool's.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as shard:
            left_out = json.loads((shard.metadata.metadata or {})[_LEFT_OUT.encode()])
            held = iter(np.setdiff1d(indices, [int(place) for place in left_out]).tolist())
            for batch in shard.iter_batches(_ROW_GROUP):
                places = list(itertools.islice(held, len(batch)))
                first = batch.column("image")[0]["bytes"].as_py()
                pool.require_same(places[0], first, path.parents[1])
    except (pa.ArrowException, OSError, KeyError, ValueError, IndexError):
        return None
    if pool.selective:
        return list(left_out.values())
    outcomes = list(pool.read_in_order(map(int, left_out)))
    broken = all(isinstance(outcome, CorruptImage) for outcome in outcomes)
    return [str(outcome) for outcome in outcomes] if broken else None
