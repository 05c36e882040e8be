"""Choosing pre-training data by the catastrophic forgetting score (CFS).

Two Parquet tables pass between the commands. Scores: ``image`` (string), ``cfs`` (float32, null
where the image cannot be read), in the order of the pool. Subsets: ``image`` (string), best first.
Both record the pool's source and fingerprint, and how they were made.
"""

from transreid_ssl.cfs.scoring import score
from transreid_ssl.cfs.subset import import_list, select

__all__ = ["import_list", "score", "select"]
