"""Choosing the part of a pool to pre-train on: the highest scores are kept.

A crop whose feature hardly moves when the backbone is fine-tuned on the target (a high CFS) is
close to the target (TransReID-SSL, section 3: half of LUPerson is enough). Other scores say in
other ways how like the target's a crop is.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import transreid_ssl
from transreid_ssl.data.pool import Pool
from transreid_ssl.data.subset import take_subset
from transreid_ssl.errors import UserError
from transreid_ssl.outputs import MADE_BY, SCORES, SUBSET
from transreid_ssl.reading import load_plain_pickle
from transreid_ssl.tables import read_columns, read_record, write_table

Strategy = Literal["best", "random"]


def select(
    scores: str | Path,
    keep: float = 0.5,
    out: str | Path = SUBSET,
    *,
    strategy: Strategy = "best",
    seed: int = 0,
    pool: Pool | None = None,
) -> Path:
    """Write the names of the images to keep, best first, as a Parquet table.

    Images that could not be read (null scores) are never kept. Equal scores go by name. Random
    subsets of one seed are nested: the smaller is the front of the larger, as with CFS.

    Args:
        scores: table written by ``score``.
        keep: a fraction in (0, 1] of the readable images, or a whole number >= 2 of images.
        out: where the table goes.
        strategy: "best" keeps the highest scores; "random" is the baseline of equal size.
        seed: of the random strategy.
        pool: when given, the scores must be of exactly this pool.

    Returns:
        ``out``; ``data.open_pool(path, subset=out)`` opens the part.

    Raises:
        UserError: an impossible ``keep``, no usable scores, or scores of another pool.
    """
    record = read_record(scores)
    if pool is not None:
        check_pool(scores, record, pool)
    table = read_scores(scores)
    table = table.filter(pc.is_finite(table["score"]))  # null counts as not finite here: dropped
    if not len(table):
        raise UserError(f"{scores}: holds no score at all; run `{MADE_BY[SCORES]}` again")
    count = resolve_keep(keep, len(table))
    order = _random_order(len(table), seed) if strategy == "random" else _best_first(table)
    made = {
        "pool": record.get("pool"),
        "pool_fingerprint": record.get("pool_fingerprint"),
        "strategy": record.get("method", "cfs") if strategy == "best" else strategy,
        "keep": keep,
        "seed": seed if strategy == "random" else None,
        "images": count,
        "scored": len(table),
        "scores": str(scores),
        "version": transreid_ssl.__version__,
    }
    write_table(out, {"image": table["image"].take(order[:count])}, made)
    return Path(out)


def read_scores(path: str | Path) -> pa.Table:
    """The names and the scores of a table of scores, as columns ``image`` and ``score``.

    Raises:
        UserError: another table, or none.
    """
    table = read_columns(path, "image", score_column(path), made_by=MADE_BY[SCORES])
    return table.rename_columns(["image", "score"])


def score_column(path: str | Path) -> str:
    """The column of a table that its scores are in: ``cfs``, or ``score`` for all others."""
    return "score" if "method" in read_record(path) else "cfs"


def check_pool(scores: str | Path, record: dict[str, Any], pool: Pool) -> None:
    """Raise ``UserError`` unless a table's record says that it is of ``pool``."""
    expected = record.get("pool_fingerprint")
    if expected != pool.fingerprint:
        raise UserError(
            f"{scores}: is of another pool ({record.get('pool')}, fingerprint {expected}), "
            f"not of {pool.source} ({pool.fingerprint}); score that pool first"
        )


def resolve_keep(keep: float, available: int) -> int:
    """How many images ``keep`` means: a fraction in (0, 1] is rounded to the nearest, at least one.

    1 means everything (the fraction), so a count starts at 2.
    """
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise UserError(f"keep: {keep!r} is not a number; give a fraction such as 0.5 or a count")
    if 0 < keep <= 1:
        return max(1, round(available * keep))
    if keep < 2 or not float(keep).is_integer():
        raise UserError(
            f"keep: {keep:g} is neither a fraction in (0, 1] nor a whole number from 2 on"
        )
    if keep > available:
        raise UserError(f"keep: {keep:.0f} images are more than the {available} that have a score")
    return int(keep)


def _best_first(table: pa.Table) -> pa.Array:
    return pc.sort_indices(table, sort_keys=[("score", "descending"), ("image", "ascending")])


def _random_order(count: int, seed: int) -> pa.Array:
    return pa.array(np.random.default_rng(seed).permutation(count))


def import_list(
    source: str | Path,
    out: str | Path = SUBSET,
    *,
    keep: float | None = None,
    pool: Pool | None = None,
) -> Path:
    """Turn a pickled list of names, best first (``CFS_list.pkl``), into a subset table.

    Args:
        source: the pickle: a list or tuple of ``str`` or ``bytes``; nothing else is built from it.
        out: where the table goes.
        keep: front part of the list to keep (fraction or count); None keeps all.
        pool: when given, every kept name must be in it (a folder or an extension more or less is
            forgiven); the table then holds the pool's own names and is bound to it.

    Raises:
        UserError: not such a pickle, or a name that is not in ``pool``.
    """
    names = _read_name_list(Path(source))
    names = names[: len(names) if keep is None else resolve_keep(keep, len(names))]
    if pool is not None:
        names = _as_named_in(pool, names, source)
    record = {
        "pool": pool.source if pool else None,
        "pool_fingerprint": pool.fingerprint if pool else None,
        "strategy": "imported",
        "keep": keep,
        "seed": None,
        "images": len(names),
        "scores": str(source),
        "version": transreid_ssl.__version__,
    }
    write_table(out, {"image": names}, record)
    return Path(out)


def _as_named_in(pool: Pool, names: pa.Array, source: str | Path) -> pa.Array:
    """The names that ``pool`` gives to the images that the list names, in the order of the list."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "names.parquet"
        write_table(listed, {"image": names}, {})
        try:
            return take_subset(pool, listed).arrow_names().column.cast(pa.string())
        except UserError as error:
            raise UserError(str(error).replace(str(listed), str(source))) from error


def _read_name_list(path: Path) -> pa.Array:
    names = load_plain_pickle(path)
    if not isinstance(names, list | tuple) or not names:
        raise UserError(
            f"{path}: holds {type(names).__name__}, not a list of names, or an empty one"
        )
    return pa.array(_texts(path, names), pa.string())


def _texts(path: Path, names: Sequence[Any]) -> list[str]:
    """Names as ``str``, the first of any that occur twice."""
    texts: dict[str, None] = {}
    for index, name in enumerate(names):
        if not isinstance(name, str | bytes):
            raise UserError(f"{path}: entry {index} is {type(name).__name__}, not a name")
        try:
            texts[name if isinstance(name, str) else name.decode()] = None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: entry {index} is not UTF-8 text") from error
    return list(texts)
