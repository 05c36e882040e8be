"""Whether a network still tells images apart: the sign of collapse that shows first."""

import torch
from torch import Tensor

from transreid_ssl.errors import UserError


def feature_spread(features: Tensor) -> Tensor:
    """How far apart features are: the norm of their standard deviation after L2 normalisation.

    Args:
        features: (N, D), any float type.

    Returns:
        0-d float32 on the same device: 0 when all point the same way (collapsed), near 1 when they
        are spread over the sphere.
    """
    unit = torch.nn.functional.normalize(features.detach().float(), dim=1)
    return unit.std(dim=0, unbiased=False).norm()


class CollapseWatch:
    """Counts how often in a row the features' spread was below ``threshold``."""

    def __init__(self, threshold: float, patience: int) -> None:
        self.threshold, self.patience = threshold, patience
        self.low = 0

    def look(self, spread: float | None, step: int) -> None:
        """Take one logged spread into account (None: the objective has none).

        Raises:
            UserError: it was below the threshold ``patience`` times in a row.
        """
        if spread is None or not self.patience:
            return
        self.low = self.low + 1 if spread < self.threshold else 0
        if self.low >= self.patience:
            raise UserError(
                f"the features have collapsed: their spread is {spread:.4f} at step {step}, below "
                f"{self.threshold} in {self.low} lines of the log; the last checkpoint is from "
                "before: lower --optim.lr or the teacher temperature, or raise the batch size, "
                "with another --run.output"
            )
