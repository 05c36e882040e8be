"""MoCo v3's start, measured against what Xavier's formula gives by hand."""

import math

import pytest
import torch

from transreid_ssl.models import build_backbone, draw_xavier, fix_sincos_positions
from transreid_ssl.models.initialise import sincos_positions


def test_xavier_takes_patches_and_attention_for_the_linear_layers_that_they_are():
    model = build_backbone("vit_small_patch16_heads12_reid", img_size=(32, 16))
    positions = model.pos_embed.clone()
    draw_xavier(model)
    block = model.blocks[3]
    for layer, fans in (
        (model.patch_embed.proj, 3 * 16 * 16 + 384),
        (block.attn.qkv, 384 + 384),
        (block.attn.proj, 384 + 384),
        (block.mlp.fc1, 384 + 1536),
        (block.mlp.fc2, 1536 + 384),
    ):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fans), rel=0.01)
        assert layer.weight.abs().max() <= math.sqrt(6 / fans)
        assert not layer.bias.any()
    assert model.patch_embed.proj.weight.std().item() == pytest.approx(0.042, rel=0.03)
    assert model.cls_token.abs().max() < 1e-5
    assert torch.equal(model.pos_embed, positions)
    assert (block.norm1.weight == 1).all()


def test_xavier_leaves_a_stem_as_it_is():
    model = build_backbone("vit_nano_patch8_ics", img_size=(32, 16))
    stem = [value.clone() for value in model.patch_embed.conv.parameters()]
    draw_xavier(model)
    assert all(torch.equal(*pair) for pair in zip(stem, model.patch_embed.conv.parameters()))
    # The projection sees 4x4 cells of 32 channels.
    found = model.patch_embed.proj.weight.std().item()
    assert found == pytest.approx(math.sqrt(2 / (4 * 4 * 32 + 128)), rel=0.03)


def test_positions_are_waves_of_row_and_column():
    positions = sincos_positions((3, 2), 12)
    assert positions.shape == (1, 6, 12)
    for row in range(3):
        for column in range(2):
            speeds = [10000 ** (-i / 3) for i in range(3)]
            waves = [f(n * s) for n in (row, column) for f in (math.sin, math.cos) for s in speeds]
            torch.testing.assert_close(positions[0, 2 * row + column], torch.tensor(waves))
    with pytest.raises(ValueError, match="dim 6: must be a multiple of 4"):
        sincos_positions((2, 2), 6)


def test_fixed_positions_do_not_learn():
    model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16))
    fix_sincos_positions(model)
    assert not model.pos_embed.requires_grad
    assert not model.pos_embed[:, 0].any()
    torch.testing.assert_close(model.pos_embed[:, 1:], sincos_positions((4, 2), 128))
    # A smaller image sees them resampled, and no gradient asks for more.
    model(torch.randn(1, 3, 16, 16)).sum().backward()
    assert model.pos_embed.grad is None
