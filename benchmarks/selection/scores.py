"""What each score says of the images of a mixed pool, held against the truth."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.selection.pools import BAD, KINDS, OTHER, TARGET, MixedPool
from transreid_ssl.cfs import score, select
from transreid_ssl.cfs.judge import recorded
from transreid_ssl.cfs.looks import measure_looks, rank_correlations
from transreid_ssl.cfs.subset import read_scores
from transreid_ssl.data import doctor
from transreid_ssl.data.subset import take_subset
from transreid_ssl.tables import read_record, write_table

ALL, RANDOM, LOWEST, TRUTH = "all", "random", "cfs-lowest", "target"
METHODS = ("cfs", "cfs-centred", "cfs-whitened", "density-ratio", "nearest", "moments", RANDOM)
PARTS = {
    ALL: "all of the pool",
    RANDOM: "a random half",
    "cfs": "highest CFS",
    LOWEST: "lowest CFS",
    "cfs-centred": "highest CFS, features centred",
    "cfs-whitened": "highest CFS, features whitened",
    "density-ratio": "highest density ratio",
    "nearest": "nearest to the target",
    "moments": "highest ratio of normal densities",
    TRUTH: "as many of the target's, as far as there are",
}
"""What is trained on, by name, and what it is called."""


def choose(
    part: str, mixed: MixedPool, networks: tuple[Path, Path], folder: Path, keep: float, seed: int
) -> tuple[Path, dict[str, Any]]:
    """Score the pool, keep a part; the table of what is kept, and figures of it.

    Args:
        networks: weights before and after fine-tuning.
        folder: where the tables go.
    """
    scores, subset = folder / "scores.parquet", folder / "subset.parquet"
    if part == TRUTH:
        _write_truth(mixed, scores, seed)
    elif part == LOWEST:
        _write_lowest(folder.parents[1] / "cfs" / folder.name / "scores.parquet", scores)
    else:
        shared = {"method": part, "target": mixed.sample, "seed": seed}
        score(mixed.pool, *networks, scores, num_workers=1, **shared)
    select(scores, keep, subset)
    return subset, figures(scores, subset, mixed)


def _write_truth(mixed: MixedPool, out: Path, seed: int) -> None:
    """Scores of somebody who knows: the target's images first, then those of the other place."""
    kinds = mixed.kinds()
    order = np.random.default_rng(seed).random(len(kinds))
    order += np.select([kinds == TARGET, kinds == OTHER], [2.0, 1.0], 0.0)
    record = {"pool": mixed.pool.source, "pool_fingerprint": mixed.pool.fingerprint}
    columns = {"image": list(mixed.pool.names), "score": order.astype(np.float32)}
    write_table(out, columns, {"method": TRUTH} | record)


def _write_lowest(cfs: Path, out: Path) -> None:
    table = read_scores(cfs)
    record = {name: read_record(cfs)[name] for name in ("pool", "pool_fingerprint")}
    columns = {"image": table["image"], "score": -table["score"].to_numpy()}
    write_table(out, columns, {"method": LOWEST} | record)


def figures(scores: Path, subset: Path, mixed: MixedPool) -> dict[str, Any]:
    """How a score orders the kinds, what it keeps of each, and what it follows.

    ``auc`` is of the target's images above all that are neither its own nor copies, ``auc_bad`` of
    all sound ones above bad detections; ``judged`` is what the program says without the truth.
    """
    kinds, values = mixed.kinds(), read_scores(scores)["score"].to_numpy()
    known = np.isin(kinds, [TARGET, OTHER, BAD])
    kept = take_subset(mixed.pool, subset).indices
    sample = doctor.choose(len(kinds), 2000)
    judgement = recorded(read_record(scores))
    return {
        "auc": _auc((kinds == TARGET)[known], values[known]),
        "auc_bad": _auc((kinds != BAD)[known], values[known]),
        "kept": {kind: float((kinds[kept] == kind).mean()) for kind in KINDS},
        "looks": rank_correlations(values[sample], measure_looks(mixed.pool, sample)),
        "judged": None if judgement is None else judgement.auc,
        "judged_share": None if judgement is None else judgement.share,
        "said": None if judgement is None else str(judgement),
    }


def _auc(positive: np.ndarray, values: np.ndarray) -> float | None:
    if not 0 < positive.sum() < len(positive):
        return None
    return float(roc_auc_score(positive, values))
