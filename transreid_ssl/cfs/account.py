"""The account of a selection: what a score follows, what is kept of each source, what repeats."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transreid_ssl.cfs.diversity import Diversity
from transreid_ssl.cfs.groups import Groups
from transreid_ssl.cfs.judge import Judgement, recorded
from transreid_ssl.cfs.looks import describe_correlations, measure_looks, rank_correlations
from transreid_ssl.cfs.order import without_near_duplicates
from transreid_ssl.cfs.parts import corrupt_path
from transreid_ssl.cfs.subset import score_column
from transreid_ssl.data import Pool
from transreid_ssl.data.doctor import choose
from transreid_ssl.outputs import MADE_BY, SCORES
from transreid_ssl.tables import read_columns
from transreid_ssl.words import counted, part_of

_LOOKED_AT = 2000
_LISTED, _DRAWN = 8, 4


@dataclass(frozen=True)
class Account:
    """What a selection is worth.

    Attributes:
        scores: float32 (N,), NaN where an image has none.
        kept: bool (N,).
        method: what the scores are.
        judgement: by images of the target, if there is one.
        sources: the source of each image.
        looks: what the scores follow, in words.
        repeats: how many near-duplicates there are among all images, and among those kept; None
            where there were no features to tell by.
    """

    scores: np.ndarray
    kept: np.ndarray
    method: str = "cfs"
    judgement: Judgement | None = None
    sources: Groups = field(default_factory=lambda: Groups(np.empty(0, np.int64), []))
    looks: str = ""
    repeats: tuple[int, int] | None = None

    def lines(self) -> list[str]:
        """The account for people."""
        lines = [str(self.judgement)] if self.judgement else []
        if self.judgement and self.judgement.knows and self.judgement.found:
            share = self.judgement.expected_share(max(1, self.kept.sum()) / len(self.kept))
            lines.append(
                f"about {self.judgement.share:.0%} of the pool resemble the target; of as many of "
                f"the best as are kept, {share:.0%}"
            )
        lines += [self.looks] if self.looks else []
        if len(self.sources.labels) > 1:
            lines += ["source: share of the pool -> share of what is kept"]
            lines += [f"  {line}" for line in self._sources()]
        if self.repeats is not None:
            total, kept = self.repeats
            found = part_of(total, len(self.kept), "image", its="the pool's")
            lines.append(f"near-duplicates: {found}, {kept:,} of the {int(self.kept.sum()):,} kept")
        return lines

    def curves(self) -> dict[str, np.ndarray]:
        """Shares float64 (101,) by what they are of, for the best 0, 1, … 100 % of the pool."""
        parts = np.linspace(0, 1, 101)
        curves = {}
        if self.judgement and self.judgement.knows and self.judgement.found:
            curves["found of what resembles the target"] = np.array(self.judgement.found)
            expected = [self.judgement.expected_share(part) for part in parts[1:]]
            curves["resemble the target, of those kept"] = np.array([np.nan, *expected])
        order = np.argsort(-self.scores, kind="stable")[: int(np.isfinite(self.scores).sum())]
        if len(self.sources.labels) > 1:
            ends = np.maximum(1, np.round(parts * len(order)).astype(int))
            for group in np.argsort(-self.sources.shares(), kind="stable")[:_DRAWN]:
                found = np.cumsum(self.sources.codes[order] == group)
                curves[f"{self.sources.labels[group]}, of those kept"] = found[ends - 1] / ends
        return curves

    def _sources(self) -> list[str]:
        before, after = self.sources.shares(), self.sources.shares(self.kept)
        order = np.argsort(-np.maximum(before, after), kind="stable")
        lines = [
            f"{self.sources.labels[n] or '(no folder)'}: {before[n]:.1%} -> {after[n]:.1%}"
            for n in order[:_LISTED]
        ]
        others = order[_LISTED:]
        if len(others):
            shares = f"{before[others].sum():.1%} -> {after[others].sum():.1%}"
            lines.append(f"{counted(len(others), 'other')}: {shares}")
        return lines


def summary(path: Path) -> str:
    """One line on a table of scores; its names, perhaps millions, are not read."""
    column = score_column(path)
    scores = read_columns(path, column, made_by=MADE_BY[SCORES])[column]
    span = pc.min_max(scores)
    least, most = (span[end].as_py() for end in ("min", "max"))
    text = f"{counted(len(scores), 'image')}, scores {least:.4f} to {most:.4f}"
    bad = f" ({scores.null_count:,} unreadable, see {corrupt_path(path)})"
    return text + (bad if scores.null_count else "")


def follows(pool: Pool, scores: np.ndarray) -> str:
    """What scores (N,) of a pool's images follow, in words: seen in at most 2,000 of them."""
    places = choose(len(pool), _LOOKED_AT)
    looks = measure_looks(pool, places)
    return describe_correlations(rank_correlations(scores[places], looks))


def make_account(
    pool: Pool,
    table: pa.Table,
    kept: np.ndarray,
    record: dict[str, Any],
    *,
    pattern: str | None = None,
    features: str | None = None,
    threshold: float = 0.98,
) -> Account:
    """The account of what is kept of a pool.

    Args:
        table: columns ``image`` and ``score``, in the order of the pool.
        kept: bool (N,).
        record: what the table of scores says of itself.
        pattern: finds the source of an image in its name; None for its folder.
        features: a file of the pool's features, to find near-duplicates by.
        threshold: cosine from which on two images are near-duplicates.

    Raises:
        UserError: features of other images, or what ``groups.by_pattern`` raises.
    """
    scores = table["score"].to_numpy().astype(np.float32)
    told = Diversity(pattern=pattern, features=features)
    repeats = None
    if features is not None:
        scored = np.flatnonzero(np.isfinite(scores))  # broken images have no features
        rows = np.zeros(len(kept), np.int64)
        found, rows[scored] = told.rows(table["image"].take(pa.array(scored)))
        orders = scored, np.flatnonzero(kept)
        left = [without_near_duplicates(order, found, rows, threshold) for order in orders]
        repeats = len(orders[0]) - len(left[0]), len(orders[1]) - len(left[1])
    return Account(
        scores, kept, record.get("method", "cfs"), recorded(record),
        told.groups("source", table["image"]), follows(pool, scores), repeats,
    )  # fmt: skip
