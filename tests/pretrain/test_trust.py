"""Pairs of frames are believed as far as the features show one person, and teach accordingly."""

import pytest
import torch
from torch.nn import functional as F

from transreid_ssl import UserError
from transreid_ssl.data import MultiCropConfig
from transreid_ssl.models import build_backbone
from transreid_ssl.pretrain import (
    DINO,
    DINOConfig,
    Distill,
    DistillConfig,
    MateTrust,
    MoCo,
    MoCoConfig,
    weigh_gradient,
)


def pairs(number, wrong, generator, noise=1.0):
    """Features of people and of their mates, which are some others' in a share of the pairs."""
    common = torch.linspace(-3, 3, 16)  # features of networks have a direction in common
    people = torch.randn(number, 16, generator=generator)
    switched = torch.rand(number, generator=generator) < wrong
    others = torch.randn(number, 16, generator=generator)
    seen = torch.where(switched[:, None], others, people)
    blur = [noise * torch.randn(number, 16, generator=generator) for _ in range(2)]
    return people + common + blur[0], seen + common + blur[1], switched


def taught(wrong, steps=400, noise=0.6):
    generator, trust = torch.Generator().manual_seed(0), MateTrust(16)
    for _ in range(steps):
        images, mates, _ = pairs(64, wrong, generator, noise)
        trust(images, mates, torch.arange(64))
        trust.update(1.0)
    images, mates, switched = pairs(2_000, wrong, generator, noise)
    return trust, trust.eval()(images, mates, torch.arange(2_000)), switched


@pytest.mark.parametrize("wrong", [0.1, 0.3])
def test_switched_pairs_are_told_from_true_ones(wrong):
    trust, found, switched = taught(wrong)
    assert found[~switched].mean() > 0.9
    assert found[switched].mean() < 0.2
    assert trust.share().item() == pytest.approx(1 - wrong, abs=0.05)
    assert found.mean().item() == pytest.approx(1 - wrong, abs=0.05)


def test_where_all_pairs_are_true_nearly_all_are_believed():
    _, found, _ = taught(0.0)
    assert found.mean() > 0.95


def test_features_that_know_nobody_make_no_difference_between_pairs():
    trust, found, switched = taught(0.3, noise=20.0)
    assert abs(found[switched].mean() - found[~switched].mean()) < 0.05
    assert torch.isfinite(found).all()
    assert 0.5 <= trust.share() < 1


def test_more_alike_is_never_less_believed():
    trust, *_ = taught(0.2)
    probabilities = trust.probability(torch.linspace(-1, 1, 201))
    assert (probabilities.diff() >= 0).all()
    assert probabilities[0] < 0.1 < 0.9 < probabilities[-1]


def test_pairs_of_one_track_tell_nothing_about_other_people():
    generator = torch.Generator().manual_seed(0)
    images, mates, _ = pairs(64, 0.0, generator)
    alone, doubled = MateTrust(16), MateTrust(16)
    alone(images, mates, torch.arange(64))
    doubled(torch.cat([images] * 2), torch.cat([mates] * 2), torch.arange(64).repeat(2))
    alone.update(1.0)
    doubled.update(1.0)
    torch.testing.assert_close(doubled.others, alone.others)


def test_doubts_begin_after_a_quarter_of_the_run_and_are_whole_at_its_half():
    generator, trust = torch.Generator().manual_seed(0), MateTrust(16)
    for _ in range(200):
        images, mates, switched = pairs(64, 0.3, generator, 0.6)
        trust(images, mates, torch.arange(64))
        trust.update(0.25)
    trust.eval()
    believed = trust(images, mates, torch.arange(64))
    assert (believed == 1).all()
    trust.doubts.fill_(1)
    whole = trust(images, mates, torch.arange(64))
    trust.train()(images, mates, torch.arange(64))
    trust.update(0.375)
    half = trust.eval()(images, mates, torch.arange(64))
    torch.testing.assert_close(half, (1 + whole) / 2, atol=0.02, rtol=0)
    assert whole[switched].mean() < 0.2


def test_the_first_batch_is_believed_and_a_step_that_is_not_made_leaves_nothing():
    generator, trust = torch.Generator().manual_seed(0), MateTrust(16)
    images, mates, _ = pairs(8, 0.5, generator)
    assert (trust(images, mates, torch.arange(8)) == 1).all()
    before = {name: value.clone() for name, value in trust.state_dict().items()}
    trust.forget()
    trust.update(1.0)
    assert all(torch.equal(value, before[name]) for name, value in trust.state_dict().items())
    trust(images, mates, torch.arange(8))
    trust.update(1.0)
    again = MateTrust(16)
    again.load_state_dict(trust.state_dict())
    assert torch.equal(again(images, mates, torch.arange(8)),
                       trust(images, mates, torch.arange(8)))  # fmt: skip


def test_gradients_are_weighed_and_values_stay():
    values = torch.randn(5, 3, requires_grad=True)
    weights = torch.rand(5)
    weighed = weigh_gradient(values, weights)
    assert torch.equal(weighed, values)
    weighed.square().sum().backward()
    torch.testing.assert_close(values.grad, 2 * values.detach() * weights[:, None])


def views(number=4):
    return torch.randint(0, 256, (2 * number, 3, 16, 8), dtype=torch.uint8)


def build(method):
    torch.manual_seed(0)
    networks = [build_backbone("vit_nano_patch8_reid", img_size=(16, 8)) for _ in range(2)]
    if method is MoCo:
        return MoCo(*networks, MoCoConfig(dim=8, queue_size=12, symmetric=True))
    return DINO(*networks, DINOConfig(out_dim=16, hidden_dim=16, bottleneck_dim=8), 2)


@pytest.mark.parametrize("method", [DINO, MoCo])
def test_a_pair_that_is_not_believed_teaches_nothing(method, monkeypatch):
    """With pairs believed wholly or not at all the gradient is that of those believed."""
    images = views()
    batch = {"views": [images], "tracks": torch.arange(4)}
    believed = torch.tensor([1.0, 0.0, 1.0, 0.0])
    doubting, plain = build(method), build(method)
    doubting.doubt_mates()
    monkeypatch.setattr(MateTrust, "forward", lambda *_: believed)
    values = doubting(batch, 0)
    values["loss"].backward()
    assert values["mate_trust"] == 0.5
    assert values["loss"] == plain(batch, 0)["loss"]
    monkeypatch.undo()
    fewer = build(method).train()
    some = images.unflatten(0, (2, 4))[:, believed > 0].flatten(0, 1)
    (fewer({"views": [some], "tracks": torch.tensor([0, 2])}, 0)["loss"] / 2).backward()
    for one, other in zip(doubting.parameters(), fewer.parameters()):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [DINO, MoCo])
def test_the_belief_moves_with_the_steps(method):
    objective = build(method)
    objective.doubt_mates()
    objective({"views": [views()], "tracks": torch.arange(4)}, 0)
    assert objective.trust.steps == 0
    objective.after_step(0.0)
    assert objective.trust.steps == 1
    assert "trust.pairs" in objective.state_dict()


def test_an_objective_without_pairs_refuses_doubts():
    networks = [build_backbone("vit_nano_patch8_reid", img_size=(16, 8)) for _ in range(2)]
    objective = Distill(*networks, "00" * 16, DistillConfig())
    with pytest.raises(UserError, match=r"--views\.doubt_mates is not made for distill"):
        objective.doubt_mates()


def test_an_objective_without_negatives_refuses_to_weigh_them():
    with pytest.raises(UserError, match="dino has no negatives to weigh"):
        build(DINO).weigh_negatives(torch.nn.Identity())


def test_the_teacher_has_to_see_both_frames():
    networks = [build_backbone("vit_nano_patch8_reid", img_size=(16, 8)) for _ in range(2)]
    objective = DINO(*networks, DINOConfig(out_dim=16), num_crops=3, num_teacher_crops=1)
    with pytest.raises(UserError, match=r"--views\.num_global is 1: give 2 or more"):
        objective.doubt_mates()
    for option in ({"doubt_mates": True}, {"certain_negatives": 2.0}):
        with pytest.raises(UserError, match=r"give --views\.mates track"):
            MultiCropConfig(**option)


def test_similarities_are_of_centred_features():
    trust = MateTrust(4)
    images, mates = torch.randn(6, 4) + 5, torch.randn(6, 4) + 5
    trust(images, mates, torch.arange(6))
    trust.update(1.0)
    center = torch.cat([images, mates]).mean(dim=0)
    found = F.normalize(images - center) @ F.normalize(mates - center).T
    between = found[~torch.eye(6, dtype=bool)]
    torch.testing.assert_close(trust.others, torch.stack([between.mean(), between.pow(2).mean()]))
    torch.testing.assert_close(trust.pairs[0], found.diagonal().mean())
