"""What the likeness of two images means: found once, and kept in the header of the weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit

from transreid_ssl.models.header_record import HeaderRecord


@dataclass(frozen=True)
class Calibration(HeaderRecord):
    """How likely two images show one person, by the cosine of their features.

    Rates may be given as texts, as JSON has them.

    Raises:
        UserError: values that no calibration has.
    """

    kind: ClassVar[str] = "calibration"
    remedy: ClassVar[str] = "calibrate"

    slope: float
    """The log odds of one person are ``slope`` * cosine + ``intercept``, where as many pairs show
    one person as show two."""
    intercept: float
    thresholds: Mapping[float, float] = field(default_factory=dict)
    """By the rate of false matches the cosine above which two images are taken for one person; only
    of rates that there were pairs enough for."""
    measured: Mapping[float, float] = field(default_factory=dict)
    """The rates of false matches that these thresholds really had, on other people."""
    flip: bool = False
    """Whether mirrored images were added to the features."""
    pairs: str = ""
    """What it was found on, in words."""

    def __post_init__(self) -> None:
        try:
            for name in ("thresholds", "measured"):
                rates = {float(rate): float(value) for rate, value in getattr(self, name).items()}
                object.__setattr__(self, name, rates)
            numbers = [self.slope, self.intercept, *self.thresholds.values()]
            sound = all(map(math.isfinite, numbers)) and self.slope > 0
            rates = [*self.thresholds, *self.measured, *self.measured.values()]
            sound = sound and all(0 <= rate <= 1 for rate in rates)
            sound = sound and isinstance(self.flip, bool) and isinstance(self.pairs, str)
        except (TypeError, ValueError, AttributeError):
            sound = False
        if not sound:
            raise self.refusal(vars(self))

    def probability(self, cosine: Any) -> np.ndarray:
        """The probability of one person, float64 of the shape of ``cosine``.

        It rises with the cosine. Where fewer pairs than half show one person, it is too high.
        """
        return expit(self.slope * np.asarray(cosine, np.float64) + self.intercept)
