"""Teacher outputs that a batch divides equally among: Sinkhorn-Knopp."""

import torch
import torch.distributed as dist
from torch import Tensor

ROUNDS = 3
"""As in SwAV (2006.09882, section 3.1) and DINOv2 (2304.07193, section 4)."""


@torch.no_grad()
def sinkhorn(scores: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Log-probabilities under which each output is about equally frequent in the batch.

    The matrix exp(scores) of images and outputs is scaled so that its columns, then its rows, have
    equal sums, in turns; rows come last, so that each image's probabilities sum to one. All
    processes call this together: columns are of the images of all. It is computed by logarithms,
    which no temperature makes overflow, and the matrix itself is not changed.

    Args:
        scores: Logits over temperature, float32 (B, K); B may be 0 and differ between processes.
        rounds: Of both scalings.

    Returns:
        (B, K), float32.
    """
    rows = scores.new_zeros(len(scores), 1)
    columns = scores.new_zeros(1, scores.shape[1])
    for _ in range(rounds):
        columns = -_over_processes(_log_sum(scores + rows, dim=0))
        rows = -_log_sum(scores + columns, dim=1)
    return scores + columns + rows


def _log_sum(values: Tensor, dim: int) -> Tensor:
    if values.numel():
        return values.logsumexp(dim=dim, keepdim=True)
    shape = (1, values.shape[1]) if dim == 0 else (0, 1)
    return values.new_full(shape, -torch.inf)


def _over_processes(log_sums: Tensor) -> Tensor:
    """The logarithm of the sum over all processes of what each has the logarithm of."""
    if not (dist.is_available() and dist.is_initialized()):
        return log_sums
    largest = log_sums.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    sums = (log_sums - largest).exp()
    dist.all_reduce(sums)
    return largest + sums.log()
