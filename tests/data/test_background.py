"""Backgrounds from other images: what is kept, what is replaced, and when."""

import numpy as np
import pytest

from transreid_ssl.data import MultiCrop, MultiCropConfig
from transreid_ssl.data.background import Ellipse, mix_background

WHITE, BLACK = np.full((64, 32, 3), 255, np.uint8), np.zeros((20, 30, 3), np.uint8)


def test_the_middle_stays_and_the_sides_are_replaced():
    mixed = mix_background(WHITE, BLACK, Ellipse(half_width=0.5, half_height=1.0, centre=0.0))
    assert mixed.shape == WHITE.shape
    assert mixed[32, 16].min() >= 250
    assert mixed[:, :2].max() <= 5
    assert mixed[:, -2:].max() <= 5
    assert (np.diff(mixed[32, 16:, 0].astype(int)) <= 0).all()  # a soft edge, not a cut


def test_half_of_the_kept_weight_lies_on_the_edge_of_the_ellipse():
    mixed = mix_background(WHITE, BLACK, Ellipse(half_width=0.5, half_height=1e6, centre=0.0))
    columns = np.interp([-0.5, 0.5], np.linspace(-1, 1, 32), mixed[32, :, 0])
    assert columns == pytest.approx([127.5, 127.5], abs=15)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (0.3, 0.3), (1.0, 1.0)])
def test_global_views_ask_for_other_images_as_often_as_told(probability, expected):
    config = MultiCropConfig(
        global_size=(16, 8), local_size=(8, 4), num_local=2, background=probability
    )
    views, asked, rounds = MultiCrop(config), [], 400

    def another():
        asked.append(1)
        return BLACK

    for seed in range(rounds):
        views(WHITE, np.random.default_rng(seed), another)
    assert len(asked) / (2 * rounds) == pytest.approx(expected, abs=0.05)


def test_without_other_images_mixing_is_an_error():
    views = MultiCrop(MultiCropConfig(global_size=(16, 8), num_local=0, background=1.0))
    with pytest.raises(ValueError, match="other images"):
        views(WHITE, np.random.default_rng(0))
