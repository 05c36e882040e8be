"""PASS's tokens of parts against a slow loop, and its weights as they are published."""

import pytest
import torch
from torch import nn

from transreid_ssl import UserError
from transreid_ssl.models import (
    HALF,
    IMAGENET,
    build_backbone,
    class_attention,
    load_backbone,
    load_weights,
    resample_positions,
    save_backbone,
)

NANO = {"name": "vit_nano_patch8_pass", "img_size": (64, 32)}
PARTS = (1, 2, 3)


@pytest.fixture
def model():
    network = build_backbone(**NANO).eval()
    nn.init.normal_(network.cls_pos, std=0.02)
    return network


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 32)


@pytest.fixture
def weights(tmp_path, model):
    """The model's, as the backbone of PASS's pre-training is published."""
    torch.save(model.state_dict(), tmp_path / "pass.pth")
    return tmp_path / "pass.pth"


def test_weights_have_the_published_names_and_shapes(model):
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    alone = {"cls_token", "cls_pos"}
    alone |= {f"part_token{i}" for i in PARTS} | {f"part{i}_pos" for i in PARTS}
    assert {name for name in shapes if "." not in name} == alone | {"pos_embed"}
    assert {shapes[name] for name in alone} == {(1, 1, 128)}
    assert shapes["pos_embed"] == (1, 32, 128)


@pytest.mark.parametrize("size", [(64, 32), (32, 16)])
def test_the_feature_is_that_of_a_slow_loop(model, size):
    images = torch.randn(2, 3, *size)
    grid = (size[0] // 8, size[1] // 8)
    places = resample_positions(torch.cat((model.cls_pos, model.pos_embed), 1), (8, 4), grid)[0, 1:]
    for image in range(2):
        tokens = [model.cls_token[0, 0] + model.cls_pos[0, 0]]
        for part in PARTS:
            token = getattr(model, f"part_token{part}") + getattr(model, f"part{part}_pos")
            tokens.append(token[0, 0])
        patches = model.patch_embed(images[image : image + 1])[0]
        for row in range(grid[0]):
            for column in range(grid[1]):
                tokens.append(patches[row, column] + places[row * grid[1] + column])
        found = torch.stack(tokens)[None]
        for block in model.blocks:
            found = block(found)
        found = model.norm(found)[0]
        expected = torch.cat((found[0], (found[1] + found[2] + found[3]) / 3))
        torch.testing.assert_close(model(images)[image], expected)


def test_patches_are_told_from_tokens_of_parts(model, images):
    feature, cells = model.forward_with_map(images)
    assert feature.shape == (2, model.spec.embed_dim) == (2, 256)
    torch.testing.assert_close(cells[0, :, 1, 0], model.forward_features(images)[0, 4 + 4])
    maps = class_attention(model, images)
    assert maps.shape == (2, 4, 8, 4)
    assert (maps.sum((2, 3)) < 0.97).all()  # four of 36 tokens are no patches


def test_all_of_it_learns_and_another_size_keeps_the_feature(model):
    images = torch.randn(2, 3, 96, 32)
    before = model(images)
    model.set_input_size((96, 32))
    assert (model.spec.grid, model.pos_embed.shape) == ((12, 4), (1, 48, 128))
    torch.testing.assert_close(model(images), before)
    model(images).square().sum().backward()
    assert all(value.grad is not None for value in model.parameters())


def test_a_published_backbone_is_recognised(weights, model, images):
    loaded = load_backbone(weights)
    assert torch.equal(loaded(images), model(images))
    assert loaded.load_report.missing == loaded.load_report.unexpected == ()
    spec = loaded.spec
    assert (spec.name, spec.img_size, spec.mean) == (NANO["name"], (64, 32), IMAGENET.mean)
    assert (spec.objective, spec.position_resampling) == ("pass", "dino")


def test_a_training_checkpoint_gives_its_teacher(tmp_path, model, images):
    teacher = {f"module.backbone.{name}": value for name, value in model.state_dict().items()}
    head = {"module.head.mlp_pt.0.weight": torch.zeros(3, 128)}
    content = {"teacher": teacher | head, "student": {}, "epoch": 100}
    torch.save(content, tmp_path / "checkpoint.pth")
    loaded = load_backbone(tmp_path / "checkpoint.pth")
    assert torch.equal(loaded(images), model(images))
    assert set(loaded.load_report.dropped) == {"student", "epoch", *head}


def test_a_finetuned_network_gives_the_feature_before_its_necks(tmp_path, model, images):
    state = {f"base.{name}": value for name, value in model.state_dict().items()}
    for neck in ("", "_1", "_2", "_3"):
        state |= {f"bottleneck{neck}.weight": torch.ones(128)}
    torch.save(state | {"classifier.weight": torch.zeros(5, 256)}, tmp_path / "t.pth")
    loaded = load_backbone(tmp_path / "t.pth")
    assert torch.equal(loaded(images), model(images))
    assert (loaded.spec.mean, loaded.spec.objective) == (HALF.mean, "supervised")
    assert {"bottleneck_3.weight", "classifier.weight"} < set(loaded.load_report.dropped)
    taller = load_backbone(tmp_path / "t.pth", img_size=(96, 32))
    expected = resample_positions(model.pos_embed, (8, 4), (12, 4), "bilinear")
    torch.testing.assert_close(taller.pos_embed, expected)


def test_saved_and_loaded_features_are_equal(tmp_path, model, images):
    save_backbone(tmp_path / "b.safetensors", model)
    loaded = load_backbone(tmp_path / "b.safetensors")
    assert loaded.spec == model.spec
    assert torch.equal(loaded(images), model(images))


def test_a_plain_vit_does_not_take_a_part_of_it(weights):
    plain = build_backbone("vit_nano_patch8_reid", img_size=(64, 32))
    with pytest.raises(UserError, match=f"3 part tokens, but .*build {NANO['name']}"):
        load_weights(plain, weights)


def test_necks_over_single_tokens_are_refused(tmp_path, model):
    state = model.state_dict()
    necks = {f"bottleneck{part}.weight": torch.ones(128) for part in ("", "_pt1", "_pt2", "_pt3")}
    content = {"state_dict": {f"module.{k}": v for k, v in (state | necks).items()}, "epoch": 50}
    torch.save(content, tmp_path / "model_best.pth.tar")
    with pytest.raises(UserError, match=r"no place for \(bottleneck_pt1"):
        load_backbone(tmp_path / "model_best.pth.tar")


@pytest.mark.parametrize("option", ["gem", "jpm"])
def test_other_views_of_parts_are_refused_in_one_line(option):
    with pytest.raises(UserError, match=f"{option}: vit_nano_patch8_pass has tokens of its own"):
        build_backbone(**NANO, **{option: True})
