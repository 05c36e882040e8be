"""The losses of supervised fine-tuning."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_hard_triplet(
    features: Tensor, identities: Tensor, margin: float | None = None, part: int | None = None
) -> Tensor:
    """Triplet loss over each anchor's farthest positive and nearest negative (arXiv 1703.07737).

    With ``margin=None`` the hinge is replaced by ``log(1 + exp(d_ap - d_an))``, the soft margin
    that transformer baselines for ReID train with; it keeps pulling after the margin has been met.
    Anchors with no other image of their identity, or of any other identity, do not count.

    Args:
        features: float ``(B, D)``, taken before the BN neck and not normalised.
        identities: int64 ``(B,)``.
        margin: hinge margin in units of Euclidean distance, or None for the soft margin.
        part: a positive or a negative has a gradient only where it is in the anchor's part of so
            many rows; None: everywhere.

    Returns:
        Scalar float32: the mean over anchors that have both a positive and a negative, else 0.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    if features.ndim != 2 or identities.shape != features.shape[:1]:
        raise ValueError(
            f"features must be (B, D) and identities (B,): got {tuple(features.shape)} and "
            f"{tuple(identities.shape)}"
        )
    features = features.float()
    positive, negative, valid = _hardest(features.detach(), identities)
    # Only the 2B chosen distances enter the graph, as differences: exact where the Gram-matrix form
    # cancels, and with a zero (not infinite) gradient where two features coincide.
    to_positive, to_negative = (
        torch.linalg.vector_norm(features - _others(features, chosen, part), dim=1)  # (B,)
        for chosen in (positive, negative)
    )
    gap = to_positive - to_negative
    losses = F.softplus(gap) if margin is None else F.relu(gap + margin)
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def _others(features: Tensor, chosen: Tensor, part: int | None) -> Tensor:
    """Features (B, D) of the rows ``chosen``, constants where they are of another part."""
    found = features[chosen]
    if part is None:
        return found
    rows = torch.arange(len(chosen), device=chosen.device)
    return torch.where((rows // part == chosen // part)[:, None], found, found.detach())


@torch.no_grad()
def _hardest(features: Tensor, identities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of each anchor's farthest positive and nearest negative; which anchors have both."""
    distances = torch.cdist(features, features)  # (B, B)
    same = identities[:, None] == identities[None, :]
    positives = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    farthest = distances.masked_fill(~positives, -1.0).argmax(dim=1)
    nearest = distances.masked_fill(same, torch.inf).argmin(dim=1)
    return farthest, nearest, positives.any(dim=1) & (~same).any(dim=1)


def smoothed_cross_entropy(
    logits: Tensor, identities: Tensor, smoothing: float, over: Literal["all", "others"] = "all"
) -> Tensor:
    """Cross-entropy with a share ``smoothing`` of the target spread evenly (arXiv 1512.00567).

    Args:
        logits: ``(B, C)``.
        identities: int64 ``(B,)``.
        over: What the share is spread over: "all" C identities as in the paper, or the C - 1
            "others", which leaves the true one ``1 - smoothing``, no less than 1 / C.

    Returns:
        Scalar: the mean over the batch.
    """
    if over == "others":
        # Of what is spread over all, the true identity gets its part back.
        count = logits.shape[1]
        smoothing = min(1.0, smoothing * count / max(1, count - 1))
    return F.cross_entropy(logits, identities, label_smoothing=smoothing)


def circle_logits(
    cosines: Tensor, identities: Tensor, scale: float = 64.0, margin: float = 0.35
) -> Tensor:
    """Logits whose cross-entropy is Circle loss with class labels (arXiv 2002.10857, section 3).

    A cosine pulls the harder the farther it is from its optimum, ``1 + margin`` to its own identity
    and ``-margin`` to another, past which it pulls no more; the boundaries lie at ``1 - margin``
    and ``margin``.

    Args:
        cosines: ``(B, C)``, of features and identities' weights.
        identities: int64 ``(B,)``.

    Returns:
        ``(B, C)``; gradients do not flow through the pull's strength.
    """
    strength = cosines.detach()
    own = (1 + margin - strength).clamp(min=0) * (cosines - (1 - margin))
    others = (strength + margin).clamp(min=0) * (cosines - margin)
    is_own = F.one_hot(identities, cosines.shape[1]).bool()
    return scale * torch.where(is_own, own, others)
