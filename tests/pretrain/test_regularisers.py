"""Both terms within an image against slow loops, and patches in line under crops and flips."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from transreid_ssl import UserError
from transreid_ssl.data import MultiCrop, MultiCropConfig
from transreid_ssl.data.collate import collate_views
from transreid_ssl.pretrain.regularisers import (
    PatchContrast,
    column_weights,
    common_boxes,
    consistency_loss,
    intrinsic_loss,
    patch_mask,
    pool_stripes,
    stripe_weights,
)
from transreid_ssl.pretrain.settings import RegularisersConfig


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_boxes(number, seed=0):
    """Crops of at least a third of each side, float64 (B, 4)."""
    generator = torch.Generator().manual_seed(seed)
    size = 1 / 3 + 2 / 3 * torch.rand(number, 2, generator=generator, dtype=torch.float64)
    start = (1 - size) * torch.rand(number, 2, generator=generator, dtype=torch.float64)
    return torch.cat([start, size], dim=1)


def test_consistency_equals_a_double_loop():
    views, original = normal(3, 4, 7), normal(4, 7, seed=1)
    terms = []
    for view in views:
        for one, other in zip(view, original):
            p, q = one.softmax(0), other.softmax(0)
            forth, back = (p * (p / q).log()).sum(), (q * (q / p).log()).sum()
            terms.append((forth + back) / 2)
    torch.testing.assert_close(consistency_loss(views, original), torch.stack(terms).mean())
    assert consistency_loss(views, original) > 0
    assert consistency_loss(original[None].expand(3, -1, -1), original + 5) < 1e-6


def test_consistency_teaches_the_views_only():
    views, original = normal(2, 3, 5).requires_grad_(), normal(3, 5, seed=1).requires_grad_()
    consistency_loss(views, original).backward()
    assert original.grad is None
    assert views.grad.abs().sum() > 0


def slow_overlaps(box, parts, cells, axis, lowest, highest):
    """Interval by interval."""
    weights = np.zeros((parts, cells))
    for part in range(parts):
        for cell in range(cells):
            begin = max(part / parts, box[axis] + box[axis + 2] * cell / cells, lowest)
            end = min((part + 1) / parts, box[axis] + box[axis + 2] * (cell + 1) / cells, highest)
            weights[part, cell] = max(end - begin, 0) * parts
    return weights


def test_weights_equal_a_loop_over_intervals():
    boxes, others = random_boxes(20), random_boxes(20, seed=1)
    flips = torch.arange(20) % 2 == 0
    common = common_boxes(boxes, others)
    rows, inside = stripe_weights(boxes, 5, 8), stripe_weights(boxes, 5, 8, common)
    columns = column_weights(boxes, flips, 2, 4, common)
    for i, (box, other) in enumerate(zip(boxes.tolist(), others.tolist())):
        limits = [
            (max(box[a], other[a]), min(box[a] + box[a + 2], other[a] + other[a + 2]))
            for a in (0, 1)
        ]
        np.testing.assert_allclose(rows[i], slow_overlaps(box, 5, 8, 0, 0, 1), atol=1e-12)
        np.testing.assert_allclose(inside[i], slow_overlaps(box, 5, 8, 0, *limits[0]), atol=1e-12)
        across = slow_overlaps(box, 2, 4, 1, *limits[1])
        np.testing.assert_allclose(columns[i], across[:, ::-1] if flips[i] else across, atol=1e-12)


def test_weights_by_hand():
    middle = torch.tensor([[0.25, 0.0, 0.5, 1.0]])
    assert stripe_weights(middle, 4, 2).tolist() == [[[0, 0], [1, 0], [0, 1], [0, 0]]]
    assert stripe_weights(middle, 2, 2).tolist() == [[[0.5, 0], [0, 0.5]]]
    left = torch.tensor([[0.0, 0.0, 1.0, 0.5]])
    for flip, expected in ((False, [[0.5, 0.5], [0, 0]]), (True, [[0.5, 0.5], [0, 0]])):
        assert column_weights(left, torch.tensor([flip]), 2, 2).tolist() == [expected]
    quarters = [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    for flip, expected in ((False, quarters), (True, [row[::-1] for row in quarters])):
        assert column_weights(whole, torch.tensor([flip]), 2, 4).tolist() == [expected]


def test_crops_that_share_nothing_share_no_patch():
    top, bottom = torch.tensor([[0.0, 0, 0.4, 1]]), torch.tensor([[0.6, 0, 0.4, 1]])
    common = common_boxes(top, bottom)
    for box in (top, bottom):
        weights = stripe_weights(box, 4, 8, common)
        assert weights.sum() == 0
        assert pool_stripes(normal(1, 3, 8, 4), weights).abs().sum() == 0


def test_pooling_equals_a_double_loop():
    maps = normal(3, 5, 8, 4)
    boxes = random_boxes(3).float()
    rows = stripe_weights(boxes, 4, 8)
    columns = column_weights(boxes, torch.tensor([True, False, True]), 2, 4)
    pooled = pool_stripes(maps, rows, columns)
    assert pooled.shape == (3, 8, 5)
    stripes = pool_stripes(maps, rows)
    mask = patch_mask(rows, columns, 0.3)
    for b in range(3):
        for p in range(4):
            if rows[b, p].sum():
                mean = (rows[b, p, :, None] * maps[b].mean(2).T).sum(0) / rows[b, p].sum()
                torch.testing.assert_close(stripes[b, p], mean)
            for q in range(2):
                weight = rows[b, p, :, None] * columns[b, q]
                total = (weight * maps[b]).sum((1, 2))
                expected = total / weight.sum() if weight.sum() else total
                torch.testing.assert_close(pooled[b, 2 * p + q], expected)
                assert mask[b, 2 * p + q] == (weight.sum() >= 0.3)
    assert mask.any()
    assert not mask.all()


def slow_intrinsic(a, b, mask, temperature, hardness):
    """Anchor by anchor, negative by negative."""
    images = []
    for one, other, counts in zip(F.normalize(a, dim=2), F.normalize(b, dim=2), mask.tolist()):
        terms = []
        for anchors, others in ((one, other), (other, one)):
            for i, anchor in enumerate(anchors):
                if not counts[i] or sum(counts) < 2:
                    continue
                negatives = [
                    float(anchor @ patches[j])
                    for patches in (others, anchors)
                    for j in range(len(anchors))
                    if j != i and counts[j]
                ]
                weights = [math.exp(hardness * s) for s in negatives]
                mean = sum(weights) / len(weights)
                hard = sum(w / mean * math.exp(s / temperature) for w, s in zip(weights, negatives))
                positive = math.exp(float(anchor @ others[i]) / temperature)
                terms.append(-math.log(positive / (positive + hard)))
        images.append(sum(terms) / len(terms) if terms else 0.0)
    return sum(images) / len(images)


@pytest.mark.parametrize("hardness", [0.0, 2.0])
def test_intrinsic_loss_equals_a_double_loop(hardness):
    a, b = normal(5, 4, 6), normal(5, 4, 6, seed=1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]) > 0
    a.requires_grad_()
    loss = intrinsic_loss(a, b, mask, 0.3, hardness)
    assert loss.item() == pytest.approx(
        slow_intrinsic(a.detach(), b, mask, 0.3, hardness), rel=1e-5
    )
    loss.backward()
    assert a.grad.isfinite().all()
    moved = a.grad.abs().sum(2) > 0
    assert torch.equal(moved, mask & (mask.sum(1, keepdim=True) > 1)), (
        "masked patches learn nothing"
    )
    parts = [intrinsic_loss(a[s], b[s], mask[s], 0.3, hardness) for s in (slice(1), slice(1, 5))]
    torch.testing.assert_close(loss, (parts[0] + 4 * parts[1]) / 5)


def test_hardness_weighs_negatives_and_not_their_number():
    equal = torch.eye(4)[None]  # every negative has the similarity 0
    mask = torch.ones(1, 4, dtype=torch.bool)
    plain = intrinsic_loss(equal, equal, mask, 0.5, 0.0)
    torch.testing.assert_close(intrinsic_loss(equal, equal, mask, 0.5, 3.0), plain)
    mixed = normal(1, 4, 3)
    easy, hard = (intrinsic_loss(mixed, mixed, mask, 0.5, h) for h in (0.0, 3.0))
    assert hard > easy


def located_batch(config, number=8, size=(160, 80)):
    """Views of an image whose red is the height in it and whose green is the place across."""
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = np.linspace(0, 240, size[0]).round()[:, None]
    image[..., 1] = np.linspace(0, 240, size[1]).round()
    multi_crop, items = MultiCrop(config), []
    for seed in range(number):
        located = multi_crop(image, np.random.default_rng(seed))
        items.append({**located._asdict(), "index": seed, "corrupt": []})
    return collate_views(items)


PLAIN = MultiCropConfig(
    global_size=(64, 32), num_local=0, jitter=0, grayscale=0, global_blur=(0,),
    global_solarize=(0,), original=True,
)  # fmt: skip


def test_patches_of_cropped_and_mirrored_views_are_the_same_piece_of_the_body():
    batch = located_batch(PLAIN)
    maps = F.avg_pool2d(batch["views"][0].float(), 4).unflatten(0, (2, -1))[:, :, :2]
    boxes, flips = batch["boxes"], batch["flips"]
    assert (flips[0] != flips[1]).any()
    common = common_boxes(boxes[0], boxes[1])

    def pooled(flipped):
        pairs = []
        for view in range(2):
            weights = (
                stripe_weights(boxes[view], 6, 16, common),
                column_weights(boxes[view], flipped[view], 2, 8, common),
            )
            pairs.append(pool_stripes(maps[view], *weights))
        return *pairs, patch_mask(*weights, 0.3)

    one, other, mask = pooled(flips)
    assert mask.sum() > 20
    # A row of the map is 15 levels of red high, so a pixel's rounding is all that remains.
    difference = (one - other).abs()[mask]
    assert difference.max() < 4
    place = torch.arange(6).repeat_interleave(2).expand(8, -1)[mask]  # stripe of each patch
    assert ((one[..., 0][mask] / 40).floor() == place).all(), "a stripe holds its own heights"
    wrong, right, mask = pooled(torch.zeros_like(flips))
    assert (wrong - right)[..., 1].abs()[mask].max() > 40, "columns need the flips"


def test_the_contrast_is_small_for_maps_that_know_their_place_and_boxes_that_are_true():
    torch.manual_seed(0)
    config = RegularisersConfig(num_columns=2, patch_temperature=0.05)
    contrast = PatchContrast(2, config)
    contrast.head = torch.nn.Sequential()  # places are compared as they are
    batch = located_batch(PLAIN)
    maps = F.avg_pool2d(batch["views"][0].float(), 4).unflatten(0, (2, -1))[:, :, :2] - 120
    true, share = contrast(maps, batch["boxes"], batch["flips"])
    assert 0.2 < share < 1
    false, _ = contrast(maps, batch["boxes"].roll(1, dims=1), batch["flips"].roll(1, dims=1))
    chance = math.log(1 + 2 * (6 * 2 - 1))
    assert true < 0.7 * false
    assert true < 0.6 * chance


def test_all_pairs_of_views_are_compared():
    contrast = PatchContrast(3, RegularisersConfig())
    maps, boxes = normal(3, 2, 3, 8, 4), random_boxes(6).float().unflatten(0, (3, 2))
    flips = torch.zeros(3, 2, dtype=torch.bool)
    pairs = [
        contrast(maps[list(p)], boxes[list(p)], flips[:2])[0] for p in ((0, 1), (0, 2), (1, 2))
    ]
    torch.testing.assert_close(contrast(maps, boxes, flips)[0], torch.stack(pairs).mean())


@pytest.mark.parametrize(
    "setting",
    [
        {"consistency_weight": -1},
        {"consistency_temperature": 0},
        {"num_patches": 1},
        {"min_coverage": 0},
        {"hardness": -0.1},
        {"patch_temperature": 0},
    ],
)
def test_settings_out_of_range_are_one_line_errors(setting):
    with pytest.raises(UserError) as error:
        RegularisersConfig(**setting)
    assert "\n" not in str(error.value)
    assert next(iter(setting)) in str(error.value)
