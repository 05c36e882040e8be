"""What gives an image its score: networks, on their device, or chance."""

from transreid_ssl.cfs.scorers.base import Input, Scorer
from transreid_ssl.cfs.scorers.make import make_scorer

__all__ = ["Input", "Scorer", "make_scorer"]
