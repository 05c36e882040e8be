"""DINOv2's networks against timm's, and their files as authors and timm lay them out."""

import pytest
import timm
import torch
from torch import nn

from transreid_ssl import UserError
from transreid_ssl.models import (
    IMAGENET,
    build_backbone,
    class_attention,
    load_backbone,
    load_weights,
    read_spec,
    save_backbone,
)
from transreid_ssl.training.optim import layer_scales

SIZE = (70, 70)
NAMES = {0: "vit_nano_patch14_dinov2_reid", 4: "vit_nano_patch14_reg4_dinov2_reid"}


def theirs(registers, size=70):
    """timm's network of the sizes of the small one here, with weights of which no two are alike."""
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    network = timm.create_model(name, img_size=size, embed_dim=128, depth=4, num_heads=4)
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.1)
    return network.eval()


def authors(state, registers):
    """The names and shapes of the authors' file of the same network."""
    state = {**state, "mask_token": torch.ones(1, 128)}
    if registers:  # whose class token is apart from its position
        state["register_tokens"] = state.pop("reg_token")
        place = torch.full((1, 1, 128), 0.5)
        state["cls_token"] = state["cls_token"] - place
        state["pos_embed"] = torch.cat((place, state["pos_embed"]), dim=1)
    return state


@pytest.mark.parametrize("layout", ["authors", "timm"])
@pytest.mark.parametrize("registers", NAMES)
def test_features_are_timm_s(layout, registers, tmp_path):
    network = theirs(registers)
    state = network.state_dict()
    torch.save(authors(state, registers) if layout == "authors" else state, tmp_path / "x.pth")
    ours = build_backbone(NAMES[registers], img_size=SIZE).eval()
    report = load_weights(ours, tmp_path / "x.pth")
    assert not report.missing
    assert not report.unexpected
    assert report.dropped == (("mask_token",) if layout == "authors" else ())
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    tokens = network.forward_features(images)
    torch.testing.assert_close(ours(images), tokens[:, 0], rtol=1e-4, atol=1e-4)
    cells = ours.forward_with_map(images)[1]
    first = tokens[:, 1 + registers]
    torch.testing.assert_close(cells[:, :, 0, 0], first, rtol=1e-4, atol=1e-4)
    assert class_attention(ours, images).shape == (2, 4, 5, 5)


@pytest.mark.parametrize("registers", NAMES)
def test_a_file_tells_its_network(registers, tmp_path):
    state = build_backbone(NAMES[registers], img_size=(518, 518)).state_dict()
    torch.save(state, tmp_path / "x.pth")
    spec = read_spec(tmp_path / "x.pth")
    assert (spec.name, spec.img_size, spec.objective) == (NAMES[registers], (518, 518), "dinov2")
    assert (spec.mean, spec.std) == IMAGENET
    assert spec.position_resampling == ("antialias" if registers else "dino")
    wrong = build_backbone(NAMES[4 - registers], img_size=SIZE)
    with pytest.raises(UserError, match=f"build {NAMES[registers]}"):
        load_weights(wrong, tmp_path / "x.pth")


def test_it_is_trained_and_saved_at_a_person_s_size(tmp_path):
    network = build_backbone(NAMES[4], img_size=(56, 28), gem=True)
    network.forward_groups([torch.randn(2, 3, 56, 28), torch.randn(2, 3, 28, 14)]).sum().backward()
    assert network.reg_token.grad.abs().sum() > 0
    scales = layer_scales(network, 0.5)
    assert scales["reg_token"] == scales["cls_token"] == scales["patch_embed.proj.weight"]
    save_backbone(tmp_path / "b.safetensors", network)
    images = torch.randn(2, 3, 56, 28)
    loaded = load_backbone(tmp_path / "b.safetensors")
    assert torch.equal(loaded(images), network.eval()(images))
    with pytest.raises(UserError, match=r"jpm: .* set it to false"):
        build_backbone(NAMES[4], jpm=True)


def test_other_sizes_are_refused_by_their_sizes(tmp_path):
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    network = timm.create_model("vit_small_patch14_dinov2", img_size=70, **sizes)
    torch.save(network.state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match="width 64, depth 2, patch 14, no stem, scaled layers"):
        load_backbone(tmp_path / "x.pth")
