"""Attention maps: their scale, and the picture that a user gets."""

import dataclasses

import cv2
import numpy as np
import torch

import launch
from transreid_ssl.data import open_pool
from transreid_ssl.models import build_backbone, save_backbone
from transreid_ssl.report.attention import LEGEND, attention_maps, draw_attention


def test_maps_lie_between_zero_and_one_over_the_patch_grid():
    torch.manual_seed(0)
    model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16)).eval()
    maps = attention_maps(model, torch.randint(0, 256, (3, 3, 32, 16), dtype=torch.uint8))
    assert maps.shape == (3, 4, 2)
    assert torch.equal(maps.amin(dim=(1, 2)), torch.zeros(3))
    assert torch.equal(maps.amax(dim=(1, 2)), torch.ones(3))


def test_the_picture_pairs_each_crop_with_its_map(tmp_path):
    model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16)).eval()
    pool = open_pool("demo:identities=3,images=4,height=32,width=16")
    path = draw_attention(tmp_path / "maps.png", model, pool, np.arange(10))
    picture = cv2.imread(str(path))
    assert picture.shape == (2 * (192 + 6) + LEGEND, 8 * (2 * 96 + 6), 3)  # 10 crops: two rows of 8


def test_crops_are_resized_as_the_network_was_trained(tmp_path):
    model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16)).eval()
    pool = open_pool("demo:identities=2,images=1,height=64,width=32")
    linear = draw_attention(tmp_path / "linear.png", model, pool, np.arange(2)).read_bytes()
    model.spec = dataclasses.replace(model.spec, interpolation="cubic")
    assert draw_attention(tmp_path / "cubic.png", model, pool, np.arange(2)).read_bytes() != linear


def test_the_command_finds_the_pool_that_the_backbone_was_trained_on(tmp_path):
    model = build_backbone(
        "vit_nano_patch8_reid", img_size=(32, 16),
        provenance={"pool": "demo:identities=3,images=4,height=32,width=16"},
    )  # fmt: skip
    save_backbone(tmp_path / "backbone.safetensors", model)
    text = launch.run(
        "-m", "transreid_ssl.report", "attention", f"--out={tmp_path / 'maps.png'}",
        f"--weights={tmp_path / 'backbone.safetensors'}", "--count=4",
    )  # fmt: skip
    assert "generated people" in text
    assert cv2.imread(str(tmp_path / "maps.png")) is not None
