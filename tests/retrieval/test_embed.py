"""Embedding: order, normalisation, mirror images, and a model left as it was found."""

import numpy as np
import pytest
import torch
from torch import nn

from transreid_ssl.retrieval import colour_histogram, embed, embed_batches

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


class LeftColumn(nn.Module):
    """Features that tell left from right, with a dropout that evaluation mode must silence."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(3).eval()

    def forward(self, images, cameras=None):
        features = self.drop(images[:, :, :, 0].mean(2))  # (B, 3)
        return features if cameras is None else features + cameras[:, None]


@pytest.fixture
def images():
    return torch.randint(0, 256, (7, 3, 8, 4), dtype=torch.uint8)


def batches(images, size=3, **extra):
    index = torch.arange(len(images))
    for part in index.split(size):
        yield {"images": images[part], "index": part, **{k: v[part] for k, v in extra.items()}}


def expected_features(images, mirrored=False):
    normal = (images.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    return normal[:, :, :, -1 if mirrored else 0].mean(2)


def test_values_order_and_mode(images):
    model = LeftColumn().train()
    model.frozen.eval()
    features = embed(model, batches(images), mean=MEAN, std=STD, l2=False)
    torch.testing.assert_close(features, expected_features(images), atol=1e-5, rtol=1e-5)
    assert model.training
    assert model.drop.training
    assert not model.frozen.training
    features.requires_grad_()  # an ordinary tensor, of use to what comes after


def test_mirror_images_are_added_before_scaling(images):
    features = embed(LeftColumn(), batches(images), mean=MEAN, std=STD, flip=True)
    total = expected_features(images) + expected_features(images, mirrored=True)
    expected = nn.functional.normalize(total, dim=1)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_batches_keep_their_index(images):
    stream = embed_batches(LeftColumn(), batches(images, size=2), mean=MEAN, std=STD, l2=False)
    seen = list(stream)
    assert torch.cat([index for index, _ in seen]).tolist() == list(range(7))
    torch.testing.assert_close(seen[1][1], expected_features(images)[2:4], atol=1e-5, rtol=1e-5)


def test_cameras_reach_the_model(images):
    cameras = torch.arange(7)
    loader = batches(images, cameras=cameras)
    features = embed(LeftColumn(), loader, mean=MEAN, std=STD, l2=False)
    expected = expected_features(images) + cameras[:, None]
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_a_stream_left_early_restores_the_mode(images):
    model = LeftColumn().train()
    stream = embed_batches(model, batches(images, size=1), mean=MEAN, std=STD)
    next(stream)
    assert not model.training
    stream.close()
    assert model.training


def test_bfloat16_comes_back_as_float32(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(96, 5))
    full = embed(model, batches(images), mean=MEAN, std=STD)
    half = embed(model, batches(images), mean=MEAN, std=STD, precision="bfloat16")
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.02, rtol=0.02)
    with pytest.raises(ValueError, match="precision"):
        embed(model, batches(images), mean=MEAN, std=STD, precision="half")


def test_nothing_to_embed():
    with pytest.raises(ValueError, match="no images"):
        embed(LeftColumn(), [], mean=MEAN, std=STD)


def test_colour_histogram_sees_colours_by_height():
    red, blue = np.zeros((2, 12, 4, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 200
    top_red = np.concatenate([red[:6], blue[6:]])
    features = colour_histogram([red, blue, top_red, np.repeat(top_red, 2, axis=0)])
    assert features.shape == (4, 768)
    assert features.dtype == np.float32
    similarity = features @ features.T
    np.testing.assert_allclose(similarity[0], [1, 0, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(similarity[2, 3], 1, atol=1e-6)
