"""Choosing pre-training data: the catastrophic forgetting score (CFS), and others beside it.

Two Parquet tables pass between the commands. Scores: ``image`` (string) and, float32 and null where
the image cannot be read, ``cfs`` or, of other methods, ``score``, in the order of the pool.
Subsets: ``image`` (string), best first. Both record the pool's source and fingerprint, and how they
were made.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
