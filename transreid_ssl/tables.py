"""Parquet tables that say how they were made: one JSON object in the metadata of their schema."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transreid_ssl.errors import UserError, brief
from transreid_ssl.files import atomic_path

METADATA_KEY = b"transreid_ssl"


def write_table(path: str | Path, columns: dict[str, pa.Array], record: dict[str, Any]) -> None:
    """Write ``columns`` atomically with ``record`` in the metadata."""
    table = pa.table(columns).replace_schema_metadata(encode_record(record))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


LISTINGS = (".csv", ".parquet")


def check_listing(path: str | Path) -> None:
    """Raise ``UserError`` unless ``write_listing`` can write a file of this name."""
    if Path(path).suffix not in LISTINGS:
        raise UserError(f"{path}: name the table {' or '.join(f'….{s[1:]}' for s in LISTINGS)}")


def write_listing(path: str | Path, columns: dict[str, Any], record: dict[str, Any]) -> None:
    """Write ``columns`` as a .parquet table with ``record`` in its metadata, or as .csv without."""
    columns = {name: pa.array(values) for name, values in columns.items()}
    if Path(path).suffix == ".parquet":
        write_table(path, columns, record)
        return
    # Here, since most programs write no such table.
    from pyarrow import csv

    with atomic_path(path) as temporary:
        csv.write_csv(pa.table(columns), temporary)


def encode_record(record: dict[str, Any]) -> dict[bytes, bytes]:
    """Schema metadata that ``read_record`` gives back."""
    return {METADATA_KEY: json.dumps(record, sort_keys=True).encode()}


def decode_record(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """What ``encode_record`` was given; {} for the metadata of a table made by something else."""
    record = json.loads((metadata or {}).get(METADATA_KEY, b"{}"))
    return record if isinstance(record, dict) else {}


def read_record(path: str | Path) -> dict[str, Any]:
    """What a table says of itself; {} for a Parquet file made by something else.

    Raises:
        UserError: the file is missing or not Parquet.
    """
    try:
        return decode_record(pq.read_schema(path).metadata)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable Parquet table ({brief(error)})") from error


def read_columns(path: str | Path, *names: str, made_by: str) -> pa.Table:
    """Read the named columns.

    Raises:
        UserError: not a readable table, or one that lacks a column; it advises to give the table
            that the command ``made_by`` wrote.
    """
    read_record(path)
    found = pq.read_schema(path).names
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(
            f"{path}: has no column {' or '.join(missing)} (it has {', '.join(found) or 'none'}); "
            f"give the table that `{made_by}` wrote"
        )
    try:
        return pq.read_table(path, columns=list(names), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: damaged ({brief(error)}); make it again with `{made_by}`"
        ) from error
