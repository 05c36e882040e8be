import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reference import normal
from transreid_ssl.finetune import batch_hard_triplet
from transreid_ssl.finetune.losses import circle_logits, smoothed_cross_entropy

REFERENCE = Path(__file__).parent / "reference.npz"


def loop_oracle(features, identities, margin):
    """The definition, one anchor at a time, in float64."""
    features = features.double()
    losses = []
    for a in range(len(features)):
        distances = [(features[a] - other).norm() for other in features]
        same = [i for i in range(len(features)) if identities[i] == identities[a] and i != a]
        other = [i for i in range(len(features)) if identities[i] != identities[a]]
        if not same or not other:
            continue
        gap = max(distances[i] for i in same) - min(distances[i] for i in other)
        losses.append(torch.log1p(gap.exp()) if margin is None else (gap + margin).clamp(min=0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("margin", [None, 0.3, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_the_loop(margin, dtype):
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(13, 7, generator=generator).to(dtype)
    identities = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4, 3])
    found = batch_hard_triplet(features, identities, margin)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), loop_oracle(features, identities, margin), rtol=1e-5, atol=0
    )


def test_gradient_equals_the_loop():
    features = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    identities = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 7])  # the last has no positive
    ours = features.clone().requires_grad_()
    batch_hard_triplet(ours, identities).backward()
    theirs = features.clone().requires_grad_()
    loop_oracle(theirs, identities, None).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "margin"), [("triplet_soft", None), ("triplet_margin0.3", 0.3)])
def test_reproduces_published_program(name, margin):
    reference = np.load(REFERENCE)
    generator = np.random.default_rng([1, zlib.crc32(b"triplet_feat")])
    features = torch.tensor(
        generator.standard_normal((32, 384)).astype(np.float32)
    ).requires_grad_()
    loss = batch_hard_triplet(features, torch.arange(8).repeat_interleave(4), margin)
    loss.backward()
    assert loss.item() == pytest.approx(reference[f"{name}/value"].item(), rel=1e-6)
    np.testing.assert_allclose(
        features.grad.numpy(), reference[f"{name}/grad"], rtol=1e-3, atol=1e-7
    )


def test_hand_value():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, 2.0]])
    identities = torch.tensor([0, 0, 1, 1])
    # d_ap 5, 5, 1, 1; d_an 1, sqrt(13), 1, sqrt(13) or 2: the nearest negative of row 3 is row 0
    gaps = torch.tensor([5 - 1, 5 - 13**0.5, 1 - 1, 1 - 2])
    expected = (gaps + 0.5).clamp(min=0).mean()
    torch.testing.assert_close(batch_hard_triplet(features, identities, 0.5), expected)


def test_order_and_translation_do_not_matter():
    features = torch.randn(12, 6, generator=torch.Generator().manual_seed(5))
    identities = torch.arange(4).repeat(3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    loss = batch_hard_triplet(features, identities)
    torch.testing.assert_close(batch_hard_triplet(features[order], identities[order]), loss)
    torch.testing.assert_close(batch_hard_triplet(features + 2, identities), loss)


def test_identical_features_have_finite_gradients():
    features = torch.ones(4, 3).requires_grad_()
    loss = batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2))
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("identities", [[0, 1, 2], [4, 4, 4]])
def test_no_triplet_is_zero(identities):
    features = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = batch_hard_triplet(features, torch.tensor(identities))
    loss.backward()
    assert loss.item() == 0.0
    assert not features.grad.any()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="identities"):
        batch_hard_triplet(torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("over", ["all", "others"])
def test_smoothing_spreads_a_share_of_the_target(over):
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    identities = torch.tensor([0, 4, 2, 2, 1, 0])
    losses = []
    for row, identity in zip(logits, identities.tolist()):
        target = {"all": [0.2 / 5] * 5, "others": [0.2 / 4] * 5}[over]
        target[identity] = {"all": 0.8 + 0.2 / 5, "others": 0.8}[over]
        denominator = sum(math.exp(value) for value in row)
        losses.append(-sum(t * math.log(math.exp(v) / denominator) for t, v in zip(target, row)))
    found = smoothed_cross_entropy(logits, identities, 0.2, over)
    assert found.item() == pytest.approx(sum(losses) / 6, rel=1e-9)
    none = smoothed_cross_entropy(logits, identities, 0.0, over)
    torch.testing.assert_close(none, torch.nn.functional.cross_entropy(logits, identities))


def test_circle_logits_equal_the_loop_and_its_gradient():
    cosines = torch.rand(7, 5, generator=torch.Generator().manual_seed(3)).double() * 2 - 1
    cosines.requires_grad_()
    identities, scale, margin = torch.tensor([0, 4, 2, 2, 1, 0, 3]), 20.0, 0.25
    found = circle_logits(cosines, identities, scale, margin)
    found.sum().backward()
    for i, row in enumerate(cosines.tolist()):
        for j, cosine in enumerate(row):
            if identities[i] == j:
                pull, boundary = 1 + margin - cosine, 1 - margin
            else:
                pull, boundary = max(cosine + margin, 0), margin
            expected = scale * pull * (cosine - boundary)
            assert found[i, j].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
            assert cosines.grad[i, j].item() == pytest.approx(scale * pull, rel=1e-9, abs=1e-9)


def test_gradients_of_triplets_may_stay_within_the_anchors_part():
    """As on GPUs of four images each that take the other GPUs' features as constants."""
    values = torch.from_numpy(normal("parts", (16, 5)))
    identities = torch.arange(4).repeat(4)
    features = values.clone().requires_grad_()
    loss = batch_hard_triplet(features, identities, part=4)
    loss.backward()
    expected = torch.zeros_like(values)
    for gpu in range(4):
        own = slice(4 * gpu, 4 * gpu + 4)
        mine = values[own].clone().requires_grad_()
        everyone = torch.cat([values[: own.start], mine, values[own.stop :]])
        distances = torch.cdist(mine, everyone)
        same = identities[own, None] == identities
        farthest = distances.masked_fill(~same, 0).max(dim=1).values
        nearest = distances.masked_fill(same, 99).min(dim=1).values
        F.softplus(farthest - nearest).mean().backward()
        expected[own] = mine.grad / 4
    torch.testing.assert_close(features.grad, expected)
    assert loss.item() == batch_hard_triplet(values, identities).item()
    whole = values.clone().requires_grad_()
    batch_hard_triplet(whole, identities).backward()
    assert not torch.allclose(whole.grad, expected, atol=1e-3)


def test_lupersons_classification_is_as_published():
    """Circle loss with smoothing over the others, as its program computes both."""
    weight, features = (
        torch.from_numpy(normal(f"circle_{name}", (rows, 16)))
        for name, rows in (("weight", 7), ("features", 9))
    )
    identities = torch.arange(9) % 7
    logits = circle_logits(F.normalize(features) @ F.normalize(weight).T, identities)
    loss = smoothed_cross_entropy(logits, identities, 0.1, "others")
    assert loss.item() == pytest.approx(59.139595, rel=1e-5)


def test_circle_logits_by_hand():
    logits = circle_logits(torch.tensor([[0.5, 0.1, -0.5]]), torch.tensor([0]))
    # 64 x 0.85 x (0.5 - 0.65), 64 x 0.45 x (0.1 - 0.35), and past its optimum
    assert logits.tolist() == [pytest.approx([-8.16, -7.2, 0.0])]
