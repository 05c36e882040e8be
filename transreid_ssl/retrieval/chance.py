"""What a random ranking scores: the floor under every retrieval figure."""

from typing import Any

import numpy as np
from scipy.special import gammaln

from transreid_ssl.retrieval.matches import Matches
from transreid_ssl.retrieval.metrics import RetrievalMetrics, summarise

QUERIES_AT_ONCE = 1024


def chance(
    query_ids: Any, query_cams: Any, gallery_ids: Any, gallery_cams: Any, *, max_rank: int = 50
) -> RetrievalMetrics:
    """The expected metrics of a uniformly random ranking under the protocol, in closed form.

    With R matches among N rows and harmonic number H = 1 + 1/2 + … + 1/N:

    - average precision: (H + (R - 1) / (N - 1) · (N - H)) / N, since row k is a match with
      probability R/N, and then each of the k - 1 rows before it with (R - 1) / (N - 1);
    - a match within the first k: 1 - C(N - R, k) / C(N, k);
    - INP: the sum over m of R/m · C(m - 1, R - 1) / C(N, R), m the rank of the last match.

    Arguments and errors are those of :func:`~transreid_ssl.retrieval.evaluate`, without features.
    """
    matches = Matches(query_ids, query_cams, gallery_ids, gallery_cams)
    num_matches, num_rows = _counts(matches)
    kinds, inverse = np.unique(np.stack([num_matches, num_rows]), axis=1, return_inverse=True)
    expected = np.stack([_expected(int(r), int(n), max_rank) for r, n in kinds.T])
    values = expected[inverse.ravel()]  # (Q, 2 + max_rank)
    return summarise(values[:, 0], values[:, 2:], values[:, 1], matches)


def _counts(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """For each query: its matches, and the gallery rows left after removing junk."""
    num_queries = len(matches.query_ids)
    num_matches = np.zeros(num_queries, np.int64)
    num_rows = np.full(num_queries, len(matches.gallery_ids))
    for start in range(0, num_queries, QUERIES_AT_ONCE):
        part = slice(start, min(start + QUERIES_AT_ONCE, num_queries))
        pairs = matches.pairs(part.start, part.stop)
        size = part.stop - part.start
        num_matches[part] = np.bincount(pairs.rows[~pairs.junk], minlength=size)
        num_rows[part] -= np.bincount(pairs.rows[pairs.junk], minlength=size)
    return num_matches, num_rows


def _expected(matches: int, rows: int, max_rank: int) -> np.ndarray:
    """Expected average precision, INP and CMC for R = ``matches`` among N = ``rows``."""
    if matches == 0:
        return np.full(2 + max_rank, np.nan)
    places = np.arange(1, rows + 1)
    harmonic = (1 / places).sum()
    others = (matches - 1) / max(1, rows - 1)
    average_precision = (harmonic + others * (rows - harmonic)) / rows
    last = places[matches - 1 :]
    last_at = np.exp(_log_choose(last - 1, matches - 1) - _log_choose(rows, matches))
    wrong = rows - matches
    first = np.arange(1, max_rank + 1)
    reachable = np.minimum(first, wrong)
    missed = np.exp(_log_choose(wrong, reachable) - _log_choose(rows, reachable))
    cmc = np.where(first <= wrong, 1 - missed, 1.0)
    return np.concatenate([[average_precision, (matches / last * last_at).sum()], cmc])


def _log_choose(n: Any, k: Any) -> Any:
    return gammaln(np.add(n, 1)) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1)
