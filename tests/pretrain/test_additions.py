"""What may be added to DINO: masked patches, KoLeo, Sinkhorn-Knopp, registers, a norm on tokens.

Each against a slow loop that was written from its paper's formula.
"""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch

import launch
from shared_statistics import check_two_processes, normal, slow_sinkhorn
from tiny_dino import HEAD, batch, build_dino
from transreid_ssl import UserError
from transreid_ssl.models import build_backbone, load_backbone, load_weights, save_backbone
from transreid_ssl.pretrain import DINO, DINOConfig, UPReIDDINO
from transreid_ssl.pretrain.koleo import koleo_loss
from transreid_ssl.pretrain.masked_patches import Masked, masked_loss
from transreid_ssl.pretrain.masks import draw_masks, fill_with_blocks
from transreid_ssl.pretrain.settings import RegularisersConfig
from transreid_ssl.pretrain.sinkhorn import sinkhorn

objective = partial(build_dino, freeze_last_layer=0)
MASKED = {"masked_patches": 0.4, "masked_images": 0.7}


def softmax(values):
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


# -- nothing added


def test_without_additions_it_is_dino_to_the_last_bit():
    dino, views = objective(), batch()["views"]
    found = dino(batch(), epoch=1)
    assert dino.config.additions == []
    assert not [name for name in dino.state_dict() if "patch_head" in name or "masked" in name]
    with torch.no_grad():
        _, teacher = dino.teacher(views[:1])
    logits = torch.cat([dino.student.head(dino.student.backbone.forward_groups(views))])
    assert torch.equal(found["loss"], dino.loss(logits, teacher, 1))


def test_up_reid_refuses_what_goes_with_dino_alone():
    networks = [build_backbone("vit_nano_patch8_reid", img_size=(32, 16)) for _ in range(2)]
    with pytest.raises(UserError, match=r"--dino\.koleo"):
        UPReIDDINO(*networks, DINOConfig(**HEAD, koleo=0.1), RegularisersConfig(), 2)


@pytest.mark.parametrize("other", [{"part_tokens": 3}, {"use_bn_in_head": True}])
def test_what_masked_patches_do_not_go_with_is_refused(other):
    with pytest.raises(UserError, match="masked_patches"):
        DINOConfig(masked_patches=0.3, **other)


def test_masked_patches_ask_for_a_network_with_patches():
    networks = [build_backbone("resnet_nano_reid", img_size=(32, 16)) for _ in range(2)]
    with pytest.raises(UserError, match="choose a plain vit"):
        DINO(*networks, DINOConfig(**HEAD | MASKED), num_crops=2)


# -- masks


def test_masks_have_the_shares_that_are_asked_for():
    rng = np.random.default_rng(0)
    masks = draw_masks(rng, 2000, (16, 8), mean=0.3, spread=0.2, images=0.5)
    shares = masks.mean(axis=(1, 2))
    masked = shares[shares > 0]
    assert len(masked) / 2000 == pytest.approx(0.5, abs=0.04)
    assert masked.max() <= 0.5
    assert masked.mean() == pytest.approx(0.3, abs=0.03)
    assert np.quantile(masked, 0.05) < 0.15 < 0.45 < np.quantile(masked, 0.95)
    rates = masks.mean(axis=0)  # every place is hidden, the middle of an image more often
    assert 0.02 < rates.min() < rates.max() < 0.3


def test_what_is_hidden_lies_together():
    rng = np.random.default_rng(0)
    masks = np.zeros((200, 16, 8), bool)
    for mask in masks:
        fill_with_blocks(rng, mask, 40)
    assert masks.sum(axis=(1, 2)).max() <= 40
    alike = (masks[:, 1:] == masks[:, :-1]).mean()
    single = rng.random(masks.shape) < masks.mean()
    assert alike > (single[:, 1:] == single[:, :-1]).mean() + 0.15


# -- the loss of masked patches


def slow_masked_loss(student, teacher, centre, images, num_images, temperatures):
    """iBOT, eq. 2: the mean over images of the mean over an image's masked patches."""
    total = 0.0
    for image in set(images):
        terms = []
        for patch, of in enumerate(images):
            if of != image:
                continue
            row = [(t - c) / temperatures[1] for t, c in zip(teacher[patch], centre)]
            target = softmax(row)
            guess = softmax([value / temperatures[0] for value in student[patch]])
            terms.append(-sum(p * math.log(q) for p, q in zip(target, guess)))
        total += sum(terms) / len(terms)
    return total / num_images


def test_the_masked_loss_equals_a_slow_loop():
    dino = objective(**MASKED)
    images, student, teacher = [0, 0, 0, 2, 2, 4], normal(6, 16), normal(6, 16, seed=1)
    weights = torch.tensor([1 / images.count(image) / 5 for image in images])
    dino.masked.center.copy_(normal(1, 16, seed=2))
    found = dino.masked(student, teacher, Masked(torch.arange(6), weights), 0.04)
    expected = slow_masked_loss(
        student.tolist(), teacher.tolist(), dino.masked.center[0].tolist(), images, 5, (0.1, 0.04)
    )
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_its_gradient_is_that_of_the_formula():
    student, teacher = normal(5, 7).requires_grad_(), normal(5, 7, seed=1).softmax(-1)
    weights = torch.rand(5, generator=torch.Generator().manual_seed(2))
    (mine,) = torch.autograd.grad(masked_loss(student, teacher, weights, 0.3), student)
    plain = -(weights[:, None] * teacher * (student / 0.3).log_softmax(-1)).sum()
    torch.testing.assert_close(mine, torch.autograd.grad(plain, student)[0])


@pytest.mark.parametrize("patch_out_dim", [0, 12])
def test_gradients_reach_the_mask_and_the_head_and_the_teacher_sees_all(patch_out_dim):
    dino = objective(**MASKED, patch_out_dim=patch_out_dim)
    seen = []
    pos_embed = dino.student.backbone._pos_embed

    def watch(patches, hidden=None):
        seen.append(hidden)
        return pos_embed(patches, hidden)

    dino.student.backbone._pos_embed = watch
    torch.manual_seed(1)
    values = dino(batch(), epoch=1)
    values["loss"].backward()
    assert values["patch_loss"] > 0
    large, small = seen
    assert len(large[0])
    assert small is None  # small views hide nothing
    assert dino.masked.embedding.grad.abs().sum() > 0
    head = dino.student.patch_head or dino.student.head
    assert head.last_layer.weight_v.grad.abs().sum() > 0
    assert head.last_layer.weight_v.shape[0] == (patch_out_dim or 16)
    dino.after_step(0.5)
    assert dino.masked.center.abs().sum() > 0
    assert all(not parameter.requires_grad for parameter in dino.teacher.parameters())


def test_a_step_that_hides_nothing_has_a_gradient_of_zero_everywhere():
    dino = objective(masked_patches=0.3, masked_images=0.0, patch_out_dim=12)
    values = dino(batch(), epoch=1)
    values["loss"].backward()
    assert values["patch_loss"] == 0
    trained = {name: p.grad for name, p in dino.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in trained.values())
    assert not trained["masked.embedding"].any()
    dino.after_step(0.0)
    assert not dino.masked.center.any()


def test_hidden_patches_are_replaced_before_their_positions():
    backbone = objective(**MASKED).student.backbone.eval()
    patches, embedding = normal(2, 4, 2, 128), normal(128, seed=1)
    tokens = backbone._pos_embed(patches, (torch.tensor([1, 8]), embedding))
    positions = backbone._positions((4, 2))[0]
    for image in range(2):
        for place in range(8):
            hidden = image * 8 + place in (1, 8)
            own = embedding if hidden else patches[image, place // 2, place % 2]
            torch.testing.assert_close(tokens[image, 1 + place], own + positions[1 + place])


def test_the_state_holds_all_and_the_same_masks_are_drawn_again():
    one, other = (objective(**MASKED, patch_out_dim=12) for _ in range(2))
    with torch.no_grad():
        one.masked.embedding.add_(normal(128))
        one.masked.center.add_(1.0)
        one.student.patch_head.last_layer.weight_v.mul_(-1.0)
    other.load_state_dict(one.state_dict())
    losses = []
    for dino in (one, other):
        torch.manual_seed(7)
        losses.append(dino(batch(), epoch=1)["loss"])
    assert torch.equal(*losses)


def test_the_patch_head_too_stays_as_it_is_at_first():
    dino = objective(**MASKED | {"patch_out_dim": 12, "freeze_last_layer": 1})
    dino(batch(), 0)["loss"].backward()
    dino.before_step(0)
    assert dino.student.patch_head.last_layer.weight_v.grad is None
    assert dino.student.patch_head.mlp[0].weight.grad is not None


# -- KoLeo


def slow_koleo(features, tracks=None):
    unit = [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in features]
    terms = []
    for i, one in enumerate(unit):
        distances = [
            math.dist(one, other)
            for j, other in enumerate(unit)
            if i != j and (tracks is None or tracks[i] != tracks[j])
        ]
        terms += [-math.log(min(distances))] if distances else []
    return sum(terms) / max(len(terms), 1)


@pytest.mark.parametrize("tracks", [None, [0, 0, 1, 2, 1], [3, 3, 3, 3, 3]])
def test_koleo_equals_a_slow_loop(tracks):
    features = normal(5, 4)
    known = None if tracks is None else torch.tensor(tracks)
    expected = slow_koleo(features.tolist(), tracks)
    assert koleo_loss(features, known).item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_equal_features_have_a_finite_loss_and_gradient():
    features = torch.ones(3, 4, requires_grad=True)
    loss = koleo_loss(features)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


def test_koleo_is_of_the_students_large_views_and_spreads_them():
    plain, spread = objective(), objective(koleo=0.5)
    values = spread(batch(), 1)
    features = spread.student(batch()["views"])[0].detach().unflatten(0, (4, 3))
    expected = sum(slow_koleo(view.tolist()) for view in features[:2])
    assert values["koleo_loss"].item() == pytest.approx(expected, rel=1e-4)
    added = values["loss"] - plain(batch(), 1)["loss"]
    assert added.item() == pytest.approx(0.5 * expected, rel=1e-4)
    values["loss"].backward()
    assert spread.student.backbone.cls_token.grad.abs().sum() > 0
    # Of one track nobody repels anybody.
    alone = spread(batch() | {"tracks": torch.zeros(3, dtype=torch.int64)}, 1)
    assert alone["koleo_loss"] == 0


# -- Sinkhorn-Knopp


def test_sinkhorn_equals_a_slow_loop_and_shares_outputs_evenly():
    scores = 3 * normal(12, 4)
    found = sinkhorn(scores).exp()
    np.testing.assert_allclose(found, slow_sinkhorn(scores.tolist()), rtol=1e-5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(12))
    even = sinkhorn(scores, rounds=50).exp().sum(dim=0)
    torch.testing.assert_close(even, torch.full((4,), 3.0), rtol=1e-3, atol=0)
    assert sinkhorn(1e4 * scores).isfinite().all()
    assert sinkhorn(scores[:0]).shape == (0, 4)


def test_the_teacher_is_centred_by_it_and_no_centre_moves():
    dino = objective(centering="sinkhorn", **MASKED)
    torch.manual_seed(1)
    values = dino(batch(), 1)
    views = batch()["views"]
    teacher = dino.teacher(views[:1])[1]
    target = torch.tensor(slow_sinkhorn((teacher.double() / 0.04).tolist()))
    logits = dino.student(views)[1].detach()
    guess = (logits.double() / 0.1).log_softmax(dim=1)
    terms = [
        -(target[3 * t + b] * guess[3 * s + b]).sum()
        for t in range(2) for s in range(4) for b in range(3) if s != t
    ]  # fmt: skip
    plain = objective(centering="sinkhorn")(batch(), 1)["loss"]
    assert plain.item() == pytest.approx(float(torch.stack(terms).mean()), rel=1e-4)
    assert values["loss"] > 0
    dino.after_step(0.0)
    assert not dino.loss.center.any()
    assert not dino.masked.center.any()


def test_statistics_are_of_all_processes():
    launch.each(check_two_processes, launch._free_port(), processes=2)


# -- tokens that travel with the weights


@pytest.mark.parametrize("name", ["vit_nano_patch8_ics", "vit_nano_patch8_reid"])
@pytest.mark.parametrize("extra", [{"registers": 3}, {"token_norm": "instance"}])
def test_tokens_and_norms_are_in_the_header_and_come_back(tmp_path, extra, name):
    torch.manual_seed(0)
    model = build_backbone(name, img_size=(32, 16), **extra).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    save_backbone(tmp_path / "w.safetensors", model)
    again, images = load_backbone(tmp_path / "w.safetensors"), batch()["views"][0]
    assert again.spec == model.spec
    assert torch.equal(again(images), model(images))
    plain = build_backbone(name, img_size=(32, 16))
    assert not set(extra) & set(json.loads(plain.spec.to_json()))
    save_backbone(tmp_path / "plain.safetensors", plain)
    with pytest.raises(UserError, match=f"--model.{next(iter(extra))}"):
        load_weights(plain, tmp_path / "w.safetensors")
    assert load_weights(model, tmp_path / "plain.safetensors").missing  # they begin anew


def test_registers_have_no_place_and_are_seen_by_patches_only_inside():
    torch.manual_seed(0)
    model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16), registers=2, gem=True).eval()
    images = batch()["views"][0]
    tokens = model._embed(images, None, None)
    assert tokens.shape == (6, 1 + 2 + 8, 128)
    torch.testing.assert_close(tokens[3, 1:3], model.reg_token[0])
    feature, maps = model.forward_with_map(images)
    assert maps.shape == (6, 128, 4, 2)
    after = model.forward_features(images)
    torch.testing.assert_close(maps.flatten(2).mT, after[:, 3:])
    with torch.no_grad():
        model.reg_token.add_(1.0)
    assert not torch.allclose(model(images), feature)


def test_the_norm_on_tokens_equals_a_slow_loop():
    model = build_backbone("vit_nano_patch8_ics", img_size=(32, 16), token_norm="instance")
    norm, tokens = model.token_norm, 5 + 3 * normal(2, 4, 2, 128)
    with torch.no_grad():
        norm.weight.copy_(normal(128, seed=1))
        norm.bias.copy_(normal(128, seed=2))
    found = norm(tokens)
    for image, value in ((0, 0), (1, 77)):
        cells = [tokens[image, row, column, value].item() for row in range(4) for column in (0, 1)]
        mean = sum(cells) / 8
        deviation = math.sqrt(sum((cell - mean) ** 2 for cell in cells) / 8 + 1e-5)
        scale, shift = norm.weight[value].item(), norm.bias[value].item()
        expected = [(cell - mean) / deviation * scale + shift for cell in cells]
        np.testing.assert_allclose(
            found[image, :, :, value].flatten().tolist(), expected, rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(norm(tokens[:, :1, :1])[0, 0, 0], norm.bias)
    model(batch()["views"][0]).sum().backward()
    assert norm.weight.grad is not None


@pytest.mark.parametrize("name", ["resnet_nano_reid", "vit_nano_patch8_pass"])
def test_networks_without_room_for_registers_say_so(name):
    with pytest.raises(UserError, match="registers"):
        build_backbone(name, img_size=(32, 16), registers=2)
