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
from transreid_ssl.cfs.diversity import Diversity
from transreid_ssl.cfs.judge import recorded
from transreid_ssl.cfs.order import averaged
from transreid_ssl.data.pool import Pool
from transreid_ssl.data.subset import take_subset
from transreid_ssl.errors import UserError
from transreid_ssl.outputs import MADE_BY, SCORES, SUBSET
from transreid_ssl.reading import load_plain_pickle
from transreid_ssl.tables import read_columns, read_record, write_table
from transreid_ssl.words import part_of

Strategy = Literal["best", "random"]


def select(
    scores: str | Path,
    keep: float | None = None,
    out: str | Path = SUBSET,
    *,
    strategy: Strategy = "best",
    threshold: float | None = None,
    target_share: float | None = None,
    diversity: Diversity | None = None,
    seed: int = 0,
    pool: Pool | None = None,
) -> Path:
    """Write the names of the images to keep, best first, as a Parquet table.

    Images that could not be read (null scores) are never kept. Equal scores go by name. A smaller
    selection is the front of a larger one, whatever else is asked for; with a higher threshold and
    balance or ``max_source`` it is a part of it.

    Args:
        scores: table written by ``score``.
        keep: a fraction in (0, 1] of the readable images, or a whole number >= 2 of images. 0.5
            where neither this nor one of the next is given; one of the three may be.
        out: where the table goes.
        strategy: "best" keeps the highest scores; "random" is the baseline of equal size.
        threshold: keep scores from here on.
        target_share: keep so many as would, were they the best, be expected to be of the target by
            so large a share; for scores that were judged.
        diversity: what else is asked for; fewer images than ``keep`` says may be left.
        seed: of the random strategy, and of clusters.
        pool: when given, the scores must be of exactly this pool; it may know tracks.

    Returns:
        ``out``; ``data.open_pool(path, subset=out)`` opens the part.

    Raises:
        UserError: an impossible ``keep`` or share, no usable scores, scores of another pool, or
            tracks that are asked for and not known.
    """
    record, diversity = read_record(scores), diversity or Diversity()
    if pool is not None:
        check_pool(scores, record, pool)
    table = read_scores(scores)
    table = table.filter(pc.is_finite(table["score"]))  # null counts as not finite here: dropped
    if not len(table):
        raise UserError(f"{scores}: holds no score at all; run `{MADE_BY[SCORES]}` again")
    asked = {"keep": keep, "threshold": threshold, "target_share": target_share}
    tracks = diversity.tracks(table["image"], pool)
    if diversity.average is not None:
        table = _averaged(table, tracks, strategy, target_share)
    count = _count(scores, table["score"], **asked)
    order = _random_order(len(table), seed) if strategy == "random" else _best_first(table)
    allowed = None
    if threshold is not None and strategy == "best":
        allowed = table["score"].to_numpy() >= np.float32(threshold)
    order = diversity.shape(order.to_numpy(), table["image"], pool, seed, allowed, tracks)
    _check_left(diversity, len(order), count)
    made = {
        "pool": record.get("pool"),
        "pool_fingerprint": record.get("pool_fingerprint"),
        "strategy": record.get("method", "cfs") if strategy == "best" else strategy,
        "keep": 0.5 if {*asked.values()} == {None} else keep,
        "seed": seed if strategy == "random" else None,
        "images": min(count, len(order)),
        "scored": len(table),
        "scores": str(scores),
        "version": transreid_ssl.__version__,
    }
    more = {"threshold": threshold, "target_share": target_share} | diversity.asked()
    if made["seed"] is None and diversity.features is not None:
        made["seed"] = seed  # of the clusters
    made |= {name: str(value) for name, value in more.items() if value is not None}
    write_table(out, {"image": table["image"].take(pa.array(order[:count]))}, made)
    return Path(out)


def _count(
    path: str | Path,
    scores: pa.ChunkedArray,
    keep: float | None,
    threshold: float | None,
    target_share: float | None,
) -> int:
    """How many of the best are asked for."""
    given = [value is not None for value in (keep, threshold, target_share)]
    if sum(given) > 1:
        raise UserError("keep, threshold and target_share: give one of them")
    if threshold is not None:
        count = pc.sum(pc.greater_equal(scores, pa.scalar(threshold, scores.type))).as_py()
        if not count:
            raise UserError(f"{path}: no score is {threshold:g} or above")
        return count
    if target_share is not None:
        keep = _fraction(path, target_share)
    return resolve_keep(0.5 if keep is None else keep, len(scores))


def _fraction(path: str | Path, target_share: float) -> float:
    """The largest part of the pool that is expected to be of the target by ``target_share``."""
    if not 0 < target_share <= 1:
        raise UserError(f"--target_share {target_share:g}: give a share above 0 and up to 1")
    judgement = recorded(read_record(path))
    if judgement and not judgement.knows:
        raise UserError(f"{path}: no share can be expected: {judgement}")
    if judgement is None or not judgement.found:
        raise UserError(
            f"{path}: was not judged by images of the target, so no share of it is expected; score "
            "with --target"
        )
    fraction = judgement.largest(target_share)
    if fraction is None:
        best = max(judgement.expected_share(part / 100) for part in range(1, 101))
        raise UserError(
            f"{path}: no part of the pool is expected to be of the target by {target_share:.0%}; "
            f"{best:.0%} is the most"
        )
    return fraction


def _check_left(diversity: Diversity, left: int, wanted: int) -> None:
    if not left:
        raise UserError("no image is left: ask for less diversity")
    if diversity.max_source is not None and left < wanted:
        raise UserError(
            f"--max_source {diversity.max_source:g}: only {part_of(left, wanted, 'image')} can "
            "be kept so: there are too few sources, or too few images left in them"
        )


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


def _averaged(
    table: pa.Table, tracks: np.ndarray, strategy: Strategy, target_share: float | None
) -> pa.Table:
    """The table with the mean of its track as the score of each image; ``own`` is its own.

    Raises:
        UserError: what is asked for besides goes by the scores of images, or by none.
    """
    if strategy != "best" or target_share is not None:
        other = "--strategy random" if strategy != "best" else "--target_share"
        raise UserError(
            f"--average track: {other} does not go by the scores of tracks; leave one of them out"
        )
    own = table["score"]
    means = averaged(own.to_numpy(), tracks).astype(np.float32)
    table = table.set_column(table.column_names.index("score"), "score", pa.array(means))
    return table.append_column("track", pa.array(tracks)).append_column("own", own)


def _best_first(table: pa.Table) -> pa.Array:
    """By score, then by name; of averaged scores track by track, and in each by the image's own."""
    keys = [("score", "descending"), ("image", "ascending")]
    if "own" in table.column_names:
        keys[1:1] = [("track", "ascending"), ("own", "descending")]
    return pc.sort_indices(table, sort_keys=keys)


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
