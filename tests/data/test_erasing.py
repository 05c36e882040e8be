"""Random erasing: where, how often, and with what."""

import numpy as np
import pytest
import torch
from torchvision import transforms

from transreid_ssl.data.erasing import RandomErasing, RandomErasingConfig
from transreid_ssl.errors import UserError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("area", [(0.02, 1 / 3), (0.02, 0.6)])
def test_erased_boxes_are_distributed_as_torchvisions(area):
    erasing = RandomErasing(RandomErasingConfig(area=area))
    rng = np.random.default_rng(0)
    number = 3000
    boxes = np.array([erasing.sample_box(rng, 256, 128) for _ in range(number)])
    blank = torch.empty(1, 256, 128)
    get_params = transforms.RandomErasing.get_params
    theirs = np.array([get_params(blank, area, (0.3, 1 / 0.3), [0.0])[:4] for _ in range(number)])
    ours = np.log(boxes[:, 2:]), boxes[:, :2]
    for a, b in zip(ours, (np.log(theirs[:, 2:]), theirs[:, :2])):
        error = np.hypot(a.std(0), b.std(0)) / number**0.5
        assert np.all(np.abs(a.mean(0) - b.mean(0)) < 4 * error)
        np.testing.assert_allclose(a.std(0), b.std(0), rtol=0.07)


def test_erasing_meets_its_probability_and_fills_with_clipped_normal_noise():
    grey = np.full((64, 32, 3), 77, np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    erasing = RandomErasing(RandomErasingConfig(probability=0.3, mean=mean, std=std))
    results = [erasing(grey, np.random.default_rng(seed)) for seed in range(1500)]
    share = np.mean([np.any(result != 77) for result in results])
    assert share == pytest.approx(0.3, abs=0.05)
    noise = erasing.erase(np.zeros((300, 300, 3), np.uint8), (0, 0, 300, 300),
                          np.random.default_rng(0))  # fmt: skip
    expected = np.random.default_rng(1).normal(mean, std, (100_000, 3)).clip(0, 1) * 255
    np.testing.assert_allclose(noise.mean((0, 1)), expected.mean(0), atol=0.8)
    np.testing.assert_allclose(noise.std((0, 1)), expected.std(0), rtol=0.02)
    assert abs(np.corrcoef(noise[:-1, :, 0].ravel(), noise[1:, :, 0].ravel())[0, 1]) < 0.01
    half = RandomErasing(RandomErasingConfig())
    noise = half.erase(np.zeros((300, 300, 3), np.uint8), (0, 0, 300, 300),
                       np.random.default_rng(0))  # fmt: skip
    assert (noise / 127.5 - 1).std() == pytest.approx(0.72, abs=0.01)  # as documented


def test_mean_fill_and_the_smallest_images():
    erasing = RandomErasing(RandomErasingConfig(probability=1, fill="mean"))
    assert erasing.sample_box(np.random.default_rng(0), 1, 1) is None
    filled = erasing.erase(np.zeros((4, 4, 3), np.uint8), (1, 0, 2, 3), np.random.default_rng(0))
    expected = np.zeros((4, 4, 3), np.uint8)
    expected[1:3, :3] = 128
    np.testing.assert_array_equal(filled, expected)


@pytest.mark.parametrize(
    "setting", [{"probability": 2}, {"area": (0.5, 0.2)}, {"ratio": (0, 1)}, {"fill": "black"}]
)
def test_settings_out_of_range_are_errors(setting):
    with pytest.raises(UserError):
        RandomErasingConfig(**setting)
