"""PASS's objective against slow loops: which tokens see what, and what is compared with what."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import tiny_dino
from transreid_ssl import UserError
from transreid_ssl.data.boxes import sample_boxes
from transreid_ssl.data.settings import MultiCropConfig
from transreid_ssl.data.views import MultiCrop
from transreid_ssl.models import build_backbone
from transreid_ssl.pretrain import DINOConfig, PartDINO

SMALL = {"out_dim": 8, "hidden_dim": 8, "bottleneck_dim": 8, "part_tokens": 3}
IMAGES, LARGE, LOCAL = 2, 2, 6
batch = partial(tiny_dino.batch, IMAGES, LARGE, LOCAL)


def objective(name="vit_nano_patch8_pass", num_crops=LARGE + LOCAL, **config):
    torch.manual_seed(0)
    networks = [build_backbone(name, img_size=(32, 16)) for _ in range(2)]
    return PartDINO(*networks, DINOConfig(**SMALL | config), num_crops, LARGE)


def tokens_one_by_one(backbone, image, parts):
    """What comes of one image after the last norm, with the class token and these part tokens."""
    tokens = backbone._embed(image[None], None, None)
    kept = [0, *(1 + part for part in parts), *range(4, tokens.shape[1])]
    tokens = tokens[:, kept]
    for block in backbone.blocks:
        tokens = block(tokens)
    return backbone.norm(tokens)[0]


def cross_entropy(teacher, student, centre):
    target = ((teacher.double() - centre.double()) / 0.04).softmax(dim=0)
    guess = (student.double() / 0.1).log_softmax(dim=0)
    return -sum(float(p) * float(q) for p, q in zip(target, guess))


@torch.no_grad()
def slow_loss(dino, views):
    """Every pair of tokens of every image, and their mean."""
    large, small = views
    terms = []
    for image in range(IMAGES):
        crops = [(large[v * IMAGES + image], (0, 1, 2)) for v in range(LARGE)]
        crops += [(small[v * IMAGES + image], (v % 3,)) for v in range(LOCAL)]
        student = [tokens_one_by_one(dino.student.backbone, *crop) for crop in crops]
        teacher = [tokens_one_by_one(dino.teacher.backbone, *crop) for crop in crops[:LARGE]]
        for token in range(4):
            heads = [
                network.head if token == 0 else network.part_heads[token - 1]
                for network in (dino.student, dino.teacher)
            ]
            centre = (dino.loss if token == 0 else dino.part_losses[token - 1]).center[0]
            for t, target in enumerate(teacher):
                for s, (tokens, (_, parts)) in enumerate(zip(student, crops)):
                    if s == t or (token and token - 1 not in parts):
                        continue
                    place = 0 if token == 0 else 1 + parts.index(token - 1)
                    guess = heads[0](tokens[place])
                    terms.append(cross_entropy(heads[1](target[token]), guess, centre))
    return sum(terms) / len(terms)


def test_the_loss_equals_a_slow_loop_over_all_pairs():
    dino = objective()
    for loss in (dino.loss, *dino.part_losses):
        loss.center.normal_(generator=torch.Generator().manual_seed(3))
    assert dino(batch(), 1)["loss"].item() == pytest.approx(
        slow_loss(dino, batch()["views"]), rel=1e-4
    )


def test_gradients_reach_every_part_and_every_centre_moves():
    dino = objective()
    values = dino(batch(), epoch=0)
    values["loss"].backward()
    for name, parameter in dino.named_parameters():
        assert (parameter.grad is not None) is parameter.requires_grad, name
    for part in (1, 2, 3):
        assert getattr(dino.student.backbone, f"part_token{part}").grad.abs().sum() > 0
    dino.before_step(0)
    assert all(head.last_layer.weight_v.grad is None for head in dino.student.part_heads)
    dino.after_step(0.0)
    assert all(loss.center.abs().sum() > 0 for loss in (dino.loss, *dino.part_losses))
    assert {"loss", "part_loss", "feature_spread", "teacher_entropy", "center_norm"} == set(values)


def test_a_crop_of_an_area_moves_only_its_own_part():
    dino, views = objective(), batch()["views"]
    losses = []
    hooks = [
        loss.register_forward_hook(lambda module, given, out: losses.append(out.item()))
        for loss in dino.part_losses
    ]
    dino({"views": views}, 1)
    changed = views[1].clone()
    changed[IMAGES : 2 * IMAGES] = 255 - changed[IMAGES : 2 * IMAGES]  # view 1, of the middle
    dino({"views": [views[0], changed]}, 1)
    for hook in hooks:
        hook.remove()
    assert losses[0] == pytest.approx(losses[3])
    assert losses[1] != pytest.approx(losses[4])
    assert losses[2] == pytest.approx(losses[5])


def test_the_state_comes_back():
    one, other = objective(), objective(koleo=0.1)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.mul_(1.1)
        for loss in one.part_losses:
            loss.center.add_(0.3)
    other.load_state_dict(one.state_dict())
    found, expected = other(batch(), 1), one(batch(), 1)
    assert torch.equal(found["part_loss"], expected["part_loss"])
    difference = found["loss"] - expected["loss"]
    assert difference.item() == pytest.approx(0.1 * found["koleo_loss"].item(), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "vit_nano_patch8_reid"}, "choose a vit_…_pass"),
        ({"part_tokens": 2}, "has 3 of them"),
        ({"num_crops": 7}, "a multiple of 3"),
        ({"num_crops": 2}, "a multiple of 3"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        objective(**arguments)


def test_small_views_are_cut_from_their_area_in_turns():
    config = MultiCropConfig(num_local=6, areas=3, global_size=(32, 16), local_size=(16, 8))
    crops, rng = MultiCrop(config), np.random.default_rng(0)
    reached = np.zeros((3, 128), bool)
    for _ in range(300):
        views = crops.sample(rng, 128, 64)
        for local, view in enumerate(views[2:]):
            top, _, height, _ = view.box
            area = local % 3
            assert 32 * area <= top
            assert top + height <= 32 * area + 64
            reached[area, top : top + height] = True
        assert all(view.box[0] + view.box[2] <= 128 for view in views)
    assert [math.ceil(rows.sum() / 2) for rows in reached] == [32, 32, 32]
    # Without areas nothing is drawn otherwise than before.
    plain = MultiCrop(MultiCropConfig(num_local=6, global_size=(32, 16), local_size=(16, 8)))
    one, other = (np.random.default_rng(1) for _ in range(2))
    boxes = [view.box for view in plain.sample(one, 128, 64)]
    scales = np.array([(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 6)
    assert boxes == sample_boxes(other, 128, 64, scales, (3 / 4, 4 / 3))
