"""Choosing pre-training data: the catastrophic forgetting score (CFS), and others beside it.

Two Parquet tables pass between the commands. Scores: ``image`` (string) and, float32 and null where
the image cannot be read, ``cfs`` or, of other methods, ``score``, in the order of the pool.
Subsets: ``image`` (string), best first. Both record the pool's source and fingerprint, and how they
were made.
"""

from transreid_ssl.cfs.diversity import Diversity
from transreid_ssl.cfs.judge import Judgement, judge
from transreid_ssl.cfs.scoring import score
from transreid_ssl.cfs.subset import import_list, select

__all__ = ["Diversity", "Judgement", "import_list", "judge", "score", "select"]
