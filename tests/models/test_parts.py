"""Stem, positions, heads and statistics against slow loops and published values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from published import inputs, parameter, shapes, state
from transreid_ssl.models import (
    HALF,
    IMAGENET,
    BNNeck,
    CosineClassifier,
    DINOHead,
    build_backbone,
    normalise,
    resample_positions,
)
from transreid_ssl.models.heads import WeightNormLinear
from transreid_ssl.models.stem import IBN, PatchEmbedding

REFERENCE = np.load(Path(__file__).parent / "reference.npz")


def standardise(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()


def test_ibn_normalises_by_image_then_by_batch():
    x = torch.randn(3, 6, 5, 4) * 2 + 1
    result = IBN(6)(x)
    for channel in range(3):
        for image in range(3):
            expected = standardise(x[image, channel])
            torch.testing.assert_close(result[image, channel], expected, atol=1e-5, rtol=1e-5)
    for channel in range(3, 6):
        expected = standardise(x[:, channel])
        torch.testing.assert_close(result[:, channel], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stem_hidden", [0, 8])
@pytest.mark.parametrize(("stride", "grid"), [(16, (16, 8)), (12, (21, 10)), (8, (31, 15))])
def test_the_grid_is_what_comes_out(stem_hidden, stride, grid):
    embed = PatchEmbedding((256, 128), 16, 3, 4, stem_hidden=stem_hidden, stride=stride)
    assert embed.grid_size == grid
    assert embed(torch.randn(1, 3, 256, 128)).shape == (1, *grid, 4)
    assert embed(torch.randn(1, 3, 130, 70)).shape[1:3] == embed.dynamic_feat_size((130, 70))


def test_a_patch_embedding_is_a_linear_map_of_its_patch():
    embed = PatchEmbedding((32, 16), 8, 3, 4, stride=6)
    images = torch.randn(1, 3, 32, 16)
    patch = images[0, :, 12:20, 6:14].flatten()
    expected = embed.proj.weight.flatten(1) @ patch + embed.proj.bias
    torch.testing.assert_close(embed(images)[0, 2, 1], expected)


def test_the_stem_refuses_an_odd_stride():
    with pytest.raises(ValueError, match="even"):
        PatchEmbedding((32, 16), 8, 3, 4, stem_hidden=4, stride=7)
    with pytest.raises(ValueError, match="smaller than a patch"):
        PatchEmbedding((4, 16), 8, 3, 4)


@pytest.mark.parametrize(("name", "grid"), [("384x128", (24, 8)), ("256x128_stride12", (21, 10))])
def test_bilinear_positions_are_the_published_ones(name, grid):
    positions = parameter("pos_embed", (1, 129, 384))
    resized = resample_positions(positions, (16, 8), grid, "bilinear")
    expected = REFERENCE[f"resize_pos_embed/{name}[:, :, ::16]"]
    np.testing.assert_allclose(resized[:, :, ::16], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", ["antialias", "dino", "bilinear"])
def test_resampling_keeps_constants_the_class_token_and_the_grid(mode):
    positions = torch.full((1, 33, 5), 2.0)
    positions[:, 0] = 7
    resized = resample_positions(positions, (8, 4), (4, 2), mode)
    assert resized.shape == (1, 9, 5)
    torch.testing.assert_close(resized[:, 1:], torch.full((1, 8, 5), 2.0))
    assert (resized[:, 0] == 7).all()
    assert resample_positions(positions, (8, 4), (8, 4), mode) is positions


def test_resampling_refuses_what_it_does_not_know():
    positions = torch.zeros(1, 33, 5)
    with pytest.raises(ValueError, match="no grid of"):
        resample_positions(positions, (6, 6), (4, 2))
    with pytest.raises(ValueError, match="choose one of antialias"):
        resample_positions(positions, (8, 4), (4, 2), "nearest")


def test_the_dino_head_gives_the_published_logits():
    head = DINOHead(384, 4096)
    names = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    assert names == shapes("dino_head_384_4096")
    head.load_state_dict(state("dino_head_384_4096"))
    with torch.no_grad():
        logits = head(inputs("head_in", (6, 384)))[:, ::16]
    np.testing.assert_allclose(logits, REFERENCE["dino_head/out[:, ::16]"], rtol=1e-4, atol=1e-6)


def test_dino_prototypes_keep_length_one_while_they_turn():
    head = DINOHead(8, 16, hidden_dim=12, bottleneck_dim=6)
    assert not head.last_layer.weight_g.requires_grad
    assert DINOHead(8, 16, norm_last_layer=False).last_layer.weight_g.requires_grad
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=1.0)
    before = head.last_layer.weight_v.clone()
    head(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(head.last_layer.weight_v, before)
    # Rows of length 1 and unit inputs: a logit is a cosine.
    rows = F.normalize(head.last_layer.weight_v, dim=1)
    torch.testing.assert_close(head.last_layer(rows).diagonal(), torch.ones(16))


def test_dino_prototypes_start_with_the_published_row_norm():
    weights = DINOHead(384, 4096).last_layer.weight_v.detach()
    assert weights.norm(dim=1).mean().item() == pytest.approx(0.577, abs=0.005)
    assert 0.06 < weights.max() <= 1 / 16
    assert abs(weights.mean().item()) < 1e-3


def test_weight_norm_is_its_formula_with_its_gradient():
    layer = WeightNormLinear(5, 7).double()
    nn.init.uniform_(layer.weight_g, 0.5, 2)
    x = torch.randn(3, 5, dtype=torch.float64)
    lengths = layer.weight_v.square().sum(1, keepdim=True).sqrt()
    expected = x @ (layer.weight_g * layer.weight_v / lengths).T
    torch.testing.assert_close(layer(x), expected)
    gradients = [
        torch.autograd.grad(y.pow(3).sum(), list(layer.parameters())) for y in (layer(x), expected)
    ]
    torch.testing.assert_close(*gradients)


def test_dino_head_variants():
    with_norm = DINOHead(8, 16, hidden_dim=12, bottleneck_dim=6, use_bn=True)
    assert [type(layer).__name__ for layer in with_norm.mlp[:3]] == [
        "Linear",
        "BatchNorm1d",
        "GELU",
    ]
    assert DINOHead(8, 16, bottleneck_dim=6, num_layers=1)(torch.randn(2, 8)).shape == (2, 16)
    with pytest.raises(ValueError, match="num_layers"):
        DINOHead(8, 16, num_layers=0)


def test_bnneck_starts_undecided_and_keeps_its_bias_at_zero():
    neck = BNNeck(6, 10)
    features = torch.randn(32, 6) * 3 + 2
    normalised, logits = neck(features)
    expected = torch.stack([standardise(column) for column in features.T], dim=1)
    torch.testing.assert_close(normalised, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, normalised @ neck.classifier.weight.T)
    assert logits.abs().max() < 0.05
    assert not neck.bottleneck.bias.requires_grad
    assert neck.classifier.bias is None


def test_cosine_classifier_is_of_directions_in_float32():
    classifier = CosineClassifier(100, 50)
    features = torch.randn(4, 100)
    with torch.autocast("cpu", torch.bfloat16):
        found = classifier(7 * features.bfloat16())
    assert found.dtype == torch.float32
    for i, feature in enumerate(features.bfloat16().double()):
        for j, weight in enumerate(classifier.weight.detach().double()):
            cosine = (feature * weight).sum() / (feature.norm() * weight.norm())
            assert found[i, j].item() == pytest.approx(cosine.item(), abs=1e-3)
    assert classifier.weight.abs().max().item() == pytest.approx(0.1, rel=1e-2)
    assert classifier.weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("statistics", [IMAGENET, HALF])
def test_normalise_by_hand(statistics):
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    result = normalise(images, *statistics)
    assert result.dtype == torch.float32
    for channel, value in enumerate((0.0, 0.2, 1.0)):
        mean, std = statistics.mean[channel], statistics.std[channel]
        assert result[0, channel, 1, 1].item() == pytest.approx((value - mean) / std, abs=1e-6)
    assert images[0, 1, 0, 0] == 51
    assert normalise(result, *statistics) is result


def test_the_statistics_of_a_network_are_in_its_spec():
    model = build_backbone("vit_nano_patch16_reid", mean=HALF.mean, std=HALF.std)
    assert (model.spec.mean, model.spec.std) == HALF
