"""Views with their geometry and the plain image: nothing else about them changes."""

from dataclasses import replace

import numpy as np
import pytest

from transreid_ssl.data import MultiCrop, MultiCropConfig
from transreid_ssl.data.images import resize
from transreid_ssl.data.located import LocatedViews

SMALL = MultiCropConfig(global_size=(32, 16), local_size=(16, 8), num_local=2)


def striped(height: int = 90, width: int = 40) -> np.ndarray:
    """Red tells the height in the image, green the place across, from 0 to 240."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 240, height).round()[:, None]
    image[..., 1] = np.linspace(0, 240, width).round()
    return image


@pytest.mark.parametrize("background", [0.0, 0.6])
def test_the_views_are_those_without_geometry(background):
    config = replace(SMALL, background=background)
    image, other = striped(), np.full((50, 30, 3), 200, np.uint8)
    plain = MultiCrop(config)(image, np.random.default_rng(4), lambda: other)
    located = MultiCrop(replace(config, original=True))(
        image, np.random.default_rng(4), lambda: other
    )
    assert isinstance(located, LocatedViews)
    assert [len(group) for group in located.views] == [2, 2]
    for group, expected in zip(located.views, plain, strict=True):
        np.testing.assert_array_equal(group, expected)
    np.testing.assert_array_equal(located.original, resize(image, (32, 16)))


def test_boxes_are_parts_of_the_image_for_global_views_only():
    multi_crop = MultiCrop(replace(SMALL, num_global=3, original=True))
    image = striped(90, 40)
    located = multi_crop(image, np.random.default_rng(5))
    drawn = multi_crop.sample(np.random.default_rng(5), 90, 40)
    assert located.boxes.shape == (3, 4)
    assert located.boxes.dtype == np.float32
    for box, flip, view in zip(located.boxes, located.flips, drawn):
        np.testing.assert_allclose(box * (90, 40, 90, 40), view.box, rtol=1e-6)
        assert flip == view.flip


def test_pixels_of_a_view_come_from_where_its_box_and_flip_say():
    config = replace(
        SMALL, num_local=0, jitter=0, grayscale=0, global_blur=(0,), global_solarize=(0,),
        original=True,
    )  # fmt: skip
    image, flipped = striped(160, 80), set()
    for seed in range(6):
        located = MultiCrop(config)(image, np.random.default_rng(seed))
        for view, box, flip in zip(located.views[0], located.boxes, located.flips):
            top, left, height, width = box
            down = top + height * (np.arange(32) + 0.5) / 32
            across = left + width * (np.arange(16) + 0.5) / 16
            across = across[::-1] if flip else across
            np.testing.assert_allclose(view[..., 0].mean(1), 240 * down, atol=4)
            np.testing.assert_allclose(view[..., 1].mean(0), 240 * across, atol=6)
            flipped.add(bool(flip))
    assert flipped == {True, False}
