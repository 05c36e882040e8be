"""The scorer of a method."""

from pathlib import Path
from typing import get_args

import accelerate

from transreid_ssl.cfs.likeness import LIKENESSES
from transreid_ssl.cfs.methods import Method
from transreid_ssl.cfs.scorers.base import RandomScorer, Scorer
from transreid_ssl.cfs.scorers.forgetting import ForgettingScorer
from transreid_ssl.cfs.scorers.resemblance import LikenessScorer
from transreid_ssl.data import Pool
from transreid_ssl.errors import UserError
from transreid_ssl.words import nearest


def make_scorer(
    method: Method,
    before: str | Path | None,
    after: str | Path | None,
    pool: Pool,
    target: Pool | None,
    accelerator: accelerate.Accelerator,
    *,
    sample: int,
    seed: int,
) -> Scorer:
    """The scorer of a method; see ``scoring.score`` for the arguments.

    Raises:
        UserError: what the method needs is missing.
    """
    if method not in get_args(Method):
        known = get_args(Method)
        raise UserError(
            f"method {method}: is unknown; give one of {', '.join(known)}" + nearest(method, known)
        )
    if method == "random":
        return RandomScorer(pool, target, accelerator, seed)
    shared = pool, target, accelerator, sample, seed
    if before is None:
        raise UserError(f"method {method}: needs the weights of a pre-trained backbone")
    if method in LIKENESSES:
        if target is None:
            raise UserError(f"method {method}: needs images of the target")
        return LikenessScorer(method, before, *shared)
    if after is None:
        raise UserError(f"method {method}: needs the weights after fine-tuning as well")
    return ForgettingScorer(method, before, after, *shared)
