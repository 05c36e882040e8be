"""Intra-identity regularisation after UP-ReID (Yang et al., 2112.00317): two terms within an image.

Global consistency: a view ranks other people as the image without augmentation does. Intrinsic
contrast: a patch of the body resembles the same patch in another view more than the image's other
patches. The paper's program was never published and its formulas were not at hand: what stands
here follows its abstract, and every constant, each default included, is ours.

Boxes are float (B, 4): (top, left, height, width) as parts of the image's height and width.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.pretrain.settings import RegularisersConfig


def consistency_loss(view_logits: Tensor, original_logits: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler divergence of each view's distribution from the original's.

    Args:
        view_logits: Of the augmented views, over temperature, (V, B, K).
        original_logits: Of the image without augmentation, over temperature, (B, K); no gradient.

    Returns:
        0-d float32: the mean of both directions, over views and images, in nats.
    """
    views = view_logits.float().log_softmax(dim=-1)
    original = original_logits.detach().float().log_softmax(dim=-1)
    both_ways = (views.exp() - original.exp()) * (views - original)
    return both_ways.sum(dim=-1).mean() / 2


def common_boxes(one: Tensor, other: Tensor) -> Tensor:
    """What two crops of an image share: (B, 4) and (B, 4) -> (B, 4), of size 0 if nothing."""
    start = torch.maximum(one[:, :2], other[:, :2])
    end = torch.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    return torch.cat([start, (end - start).clamp(min=0)], dim=1)


def stripe_weights(
    boxes: Tensor, num_patches: int, rows: int, within: Tensor | None = None
) -> Tensor:
    """How much of each horizontal stripe of the image each row of a view's feature map shows.

    Args:
        boxes: The views' crops, (B, 4).
        num_patches: P, stripes of equal height from the image's top to its bottom.
        rows: Of the map, from the crop's top to its bottom.
        within: Boxes (B, 4) outside of which nothing counts.

    Returns:
        (B, P, rows), shares of a stripe's height: their sum over the rows is the share of the
        stripe that the crop covers, 0 to 1.
    """
    return _overlaps(boxes, 0, num_patches, rows, within)


def column_weights(
    boxes: Tensor, flips: Tensor, num_columns: int, columns: int, within: Tensor | None = None
) -> Tensor:
    """``stripe_weights`` across: (B, num_columns, columns); ``flips`` bool (B,) mirror the map."""
    weights = _overlaps(boxes, 1, num_columns, columns, within)
    return torch.where(flips[:, None, None], weights.flip(-1), weights)


def _overlaps(boxes: Tensor, axis: int, parts: int, cells: int, within: Tensor | None) -> Tensor:
    """(B, parts, cells): the share of a part of the image along an axis that a cell covers."""
    steps = torch.linspace(0, 1, cells + 1, device=boxes.device, dtype=boxes.dtype)
    edges = boxes[:, axis, None] + boxes[:, axis + 2, None] * steps  # (B, cells + 1)
    if within is not None:
        start, length = within[:, axis, None], within[:, axis + 2, None]
        edges = edges.clamp(min=start, max=start + length)
    borders = torch.linspace(0, 1, parts + 1, device=boxes.device, dtype=boxes.dtype)[:, None]
    edges = edges[:, None]  # (B, 1, cells + 1) against (parts, 1)
    end = torch.minimum(edges[..., 1:], borders[1:])
    start = torch.maximum(edges[..., :-1], borders[:-1])
    return (end - start).clamp(min=0) * parts


def pool_stripes(maps: Tensor, weights: Tensor, columns: Tensor | None = None) -> Tensor:
    """Weighted means over a feature map, one for each patch.

    Args:
        maps: (B, D, h, w).
        weights: (B, P, h), from ``stripe_weights``.
        columns: (B, Q, w), from ``column_weights``; None: stripes of the map's whole width.

    Returns:
        (B, P * Q, D), stripe by stripe; 0 for a patch without any weight.
    """
    if columns is None:
        columns = weights.new_ones(len(weights), 1, maps.shape[-1])
    rows, columns = (F.normalize(x, p=1.0, dim=-1).to(maps.dtype) for x in (weights, columns))
    # b = batch, d = channels, p, q = stripes, columns
    return torch.einsum("bdhw,bph,bqw->bpqd", maps, rows, columns).flatten(1, 2)


def patch_mask(weights: Tensor, columns: Tensor, min_coverage: float) -> Tensor:
    """Bool (B, P * Q): patches of which at least ``min_coverage`` is shown, by both weights."""
    covered = weights.sum(dim=-1)[:, :, None] * columns.sum(dim=-1)[:, None]  # (B, P, Q)
    return covered.flatten(1) >= min_coverage


def intrinsic_loss(
    a: Tensor, b: Tensor, mask: Tensor, temperature: float, hardness: float = 0.0
) -> Tensor:
    """InfoNCE among the patches of an image: the same patch of the other view is the positive.

    Negatives are the image's other patches, of both views. Negative j with cosine similarity s_j
    weighs exp(hardness * s_j) over the mean of that (Robinson et al., 2010.04592), a constant.

    Args:
        a, b: Patches of two views, (B, P, D); normalised here.
        mask: Patches that count, bool (B, P); images with fewer than two give 0.

    Returns:
        0-d float32: mean over images of the mean over their patches and both directions. Batches of
        equal size average to the loss of both together.
    """
    with torch.autocast(a.device.type, enabled=False):  # bf16 would round the similarities
        a, b = (F.normalize(x.float(), dim=-1) for x in (a, b))
        sides = [_one_sided(*pair, mask, temperature, hardness) for pair in ((a, b), (b, a))]
    return (sides[0] + sides[1]) / 2


def _one_sided(
    anchors: Tensor, others: Tensor, mask: Tensor, temperature: float, hardness: float
) -> Tensor:
    """``intrinsic_loss`` of the anchors' view, for patches of length 1."""
    across, inside = anchors @ others.mT, anchors @ anchors.mT  # (B, P, P)
    positive = across.diagonal(dim1=1, dim2=2) / temperature  # (B, P)
    similarity = torch.cat([across, inside], dim=2)  # (B, P, 2P)
    same = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    counts = mask & (mask.sum(dim=1, keepdim=True) > 1)
    # An anchor that does not count keeps all its negatives, so that nothing becomes infinite.
    negative = ((mask[:, None] & ~same) | ~counts[..., None]).repeat(1, 1, 2)
    weights = (hardness * similarity.detach()).masked_fill(~negative, -torch.inf)
    log_weights = weights.log_softmax(dim=-1) + negative.sum(dim=-1, keepdim=True).log()
    logits = torch.cat([positive[..., None], similarity / temperature + log_weights], dim=2)
    loss = ((logits.logsumexp(dim=-1) - positive) * counts).sum(dim=1)
    return (loss / counts.sum(dim=1).clamp(min=1)).mean()


class PatchContrast(nn.Module):
    """The intrinsic term on feature maps: patches in line, a projection head, the contrast.

    Args:
        dim: Channels of the maps.
        config: Settings.
    """

    head: nn.Sequential

    def __init__(self, dim: int, config: RegularisersConfig) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Sequential(
            nn.Linear(dim, config.patch_hidden_dim), nn.ReLU(),
            nn.Linear(config.patch_hidden_dim, config.patch_dim),
        )  # fmt: skip

    def forward(
        self, maps: Sequence[Tensor], boxes: Tensor, flips: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss, mean over all pairs of views, and the share of patches that counted.

        Args:
            maps: Feature maps of the V views, each (B, D, h, w).
            boxes: Their crops, (V, B, 4).
            flips: Which are mirrored, bool (V, B).
        """
        pairs = [
            self._compare(maps, boxes, flips, pair) for pair in combinations(range(len(maps)), 2)
        ]
        losses, shares = zip(*pairs)
        return torch.stack(losses).mean(), torch.stack(shares).mean()

    def _compare(
        self, maps: Sequence[Tensor], boxes: Tensor, flips: Tensor, pair: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        common = common_boxes(*(boxes[view] for view in pair))
        patches = []
        for view in pair:
            rows, columns = maps[view].shape[-2:]
            down = stripe_weights(boxes[view], config.num_patches, rows, common)
            across = column_weights(boxes[view], flips[view], config.num_columns, columns, common)
            patches.append(self.head(pool_stripes(maps[view], down, across)))
        # Both views show the same piece of a patch: either one's weights tell how much it is.
        mask = patch_mask(down, across, config.min_coverage)
        loss = intrinsic_loss(*patches, mask, config.patch_temperature, config.hardness)
        return loss, mask.float().mean()
