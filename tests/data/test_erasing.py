"""Random erasing: where, how often, and with what."""

import numpy as np
import pytest
import torch
from torchvision import transforms

from transreid_ssl.data.erasing import RandomErasing
from transreid_ssl.data.settings import RandomErasingConfig
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


def law(area, ratio_law, number, height=256, width=128):
    """Sides (N, 2) of the boxes that the law accepts, by rejection, all at once."""
    rng = np.random.default_rng(1)
    areas = rng.uniform(*area, number) * height * width
    ratios = rng.uniform(0.3, 1 / 0.3, number)
    if ratio_law == "log-uniform":
        ratios = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3), number))
    sides = np.rint(np.sqrt([areas * ratios, areas / ratios])).T
    return sides[(sides[:, 0] < height) & (sides[:, 1] < width)]


@pytest.mark.parametrize(
    ("settings", "mean", "high", "tall"),
    [
        ({}, 0.165, 0.293, 0.559),
        # Cluster Contrast's and LUPerson's programs: 100 draws, height / width uniform
        ({"area": (0.02, 0.4)}, 0.204, 0.358, 0.812),
        ({"area": (0.02, 0.6)}, 0.292, 0.529, 0.862),
        ({"area": (0.02, 0.8)}, 0.354, 0.656, 0.883),
    ],
)
def test_erased_area_and_shape_given_an_erasure(settings, mean, high, tall):
    if settings:
        settings = {**settings, "ratio_law": "uniform", "attempts": 100}
    config = RandomErasingConfig(**settings)
    rng = np.random.default_rng(0)
    erasing = RandomErasing(config)
    drawn = [erasing.sample_box(rng, 256, 128) for _ in range(10_000)]
    assert None not in drawn
    sides = np.array(drawn)[:, 2:]
    for boxes in (sides, law(config.area, config.ratio_law, 300_000)):
        parts = boxes.prod(1) / (256 * 128)
        assert parts.mean() == pytest.approx(mean, abs=0.004)
        assert np.quantile(parts, 0.9) == pytest.approx(high, abs=0.008)
        assert (boxes[:, 0] > boxes[:, 1]).mean() == pytest.approx(tall, abs=0.01)


def test_more_attempts_leave_fewer_images_whole():
    once = len(law((0.9, 1.0), "uniform", 100_000)) / 100_000
    assert once == pytest.approx(0.061, abs=0.003)
    for attempts in (1, 10, 100):
        config = RandomErasingConfig(area=(0.9, 1.0), ratio_law="uniform", attempts=attempts)
        erasing, rng = RandomErasing(config), np.random.default_rng(0)
        boxes = [erasing.sample_box(rng, 256, 128) for _ in range(1500)]
        share = np.mean([box is not None for box in boxes])
        assert share == pytest.approx(1 - (1 - once) ** attempts, abs=0.04)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"fill": "byte"}, (0, 0, 0)),
        ({"fill": "byte", "colour": (123.675, 116.28, 103.53)}, (124, 116, 104)),
        ({"fill": "normalised", "colour": (0.485, 0.456, 0.406)}, (189, 186, 179)),
        ({"fill": "normalised", "colour": (-9, 0, 9)}, (0, 128, 255)),
        ({"fill": "mean", "mean": (0.485, 0.456, 0.406), "std": (0.1, 0.1, 0.1)}, (124, 116, 104)),
    ],
)
def test_one_colour_before_or_after_normalisation(settings, expected):
    erasing = RandomErasing(RandomErasingConfig(**settings))
    filled = erasing.erase(np.full((4, 4, 3), 7, np.uint8), (1, 2, 3, 2), np.random.default_rng(0))
    assert (filled[1:, 2:] == expected).all()
    assert (filled[0] == 7).all()


def test_a_normalised_colour_reaches_the_network_to_half_a_byte():
    mean, std = np.array((0.3525, 0.3106, 0.3140)), np.array((0.2660, 0.2522, 0.2505))
    wanted = np.array((0.485, 0.456, 0.406))
    config = RandomErasingConfig(
        fill="normalised", colour=tuple(wanted), mean=tuple(mean), std=tuple(std)
    )
    seen = (config.fill_colour() / 255 - mean) / std
    assert (np.abs(seen - wanted) <= 1 / (510 * std)).all()


@pytest.mark.parametrize(
    "setting",
    [
        {"probability": 2},
        {"area": (0.5, 0.2)},
        {"ratio": (0, 1)},
        {"ratio_law": "normal"},
        {"attempts": 0},
        {"fill": "black"},
        {"fill": "byte", "colour": (0, 0, 256)},
    ],
)
def test_settings_out_of_range_are_errors(setting):
    with pytest.raises(UserError):
        RandomErasingConfig(**setting)
