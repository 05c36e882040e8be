"""Each colour operation beside Pillow's."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as F

from transreid_ssl.data import colour


def picture(seed: int, height: int = 144, width: int = 64) -> np.ndarray:
    """Colourful clouds, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize(
    ("ours", "pillow"),
    [
        (colour.adjust_brightness, F.adjust_brightness),
        (colour.adjust_contrast, F.adjust_contrast),
        (colour.adjust_saturation, F.adjust_saturation),
    ],
)
def test_affine_colours_equal_pillow_up_to_rounding(ours, pillow, factor):
    image = picture(1)
    expected = np.asarray(pillow(Image.fromarray(image), factor)).astype(int)
    # Pillow rounds the grey mean and the grey image before it mixes them, so 2 for a factor of 0.6.
    assert np.abs(ours(image, factor) - expected).max() <= 2


@pytest.mark.parametrize("shift", [-0.3, -0.1, 0.04, 0.1])
def test_hue_equals_pillow_up_to_its_8_bit_hues(shift):
    image = picture(2)
    difference = colour.adjust_hue(image, shift) - np.asarray(
        F.adjust_hue(Image.fromarray(image), shift)
    ).astype(int)
    assert np.abs(difference).max() <= 12
    assert np.abs(difference).mean() < 1.2
    wrong_way = colour.adjust_hue(image, -shift) - colour.adjust_hue(image, shift).astype(int)
    assert np.abs(wrong_way).mean() > 5


def test_a_run_of_colours_equals_pillow_in_every_order():
    rng = np.random.default_rng(3)
    pillow = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for seed in range(24):
        image = picture(seed)
        factors = [*rng.uniform(0.6, 1.4, 3), rng.uniform(-0.1, 0.1)]
        order = rng.permutation(4).tolist()
        ours = colour.adjust_colours(image, [(kind, factors[kind]) for kind in order])
        expected = Image.fromarray(image)
        for kind in order:
            expected = pillow[kind](expected, factors[kind])
        assert np.abs(ours - np.asarray(expected).astype(int)).mean() < 2.5


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 0.8, 1.2, 1.6, 2.0])
def test_blur_equals_pillow(sigma):
    image = picture(4)
    expected = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    difference = colour.blur(image, sigma) - expected.astype(int)
    assert np.abs(difference).mean() < 1
    assert np.abs(difference).max() <= 8  # Pillow rounds after each of its six passes


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5, 2.0])
def test_blur_spreads_a_point_by_sigma(sigma):
    point = np.zeros((31, 31, 3), np.uint8)
    point[15, 15] = 255
    spread = sum(colour.blur(point, sigma).astype(float)[..., 0].sum(0) * (np.arange(31) - 15) ** 2)
    assert (spread / colour.blur(point, sigma)[..., 0].sum()) ** 0.5 == pytest.approx(
        sigma, rel=0.1
    )


def test_blur_keeps_a_plain_colour():
    plain = np.full((9, 5, 3), (3, 128, 255), np.uint8)
    for sigma in np.arange(0.01, 3, 0.05):
        np.testing.assert_array_equal(colour.blur(plain, sigma), plain)


def test_solarise_equals_pillow_for_all_values():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(values), 128))
    np.testing.assert_array_equal(colour.solarise(values), expected)
