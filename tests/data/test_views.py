"""Multi-crop and the fine-tuning recipe, exactly; test_views_distribution.py has the statistics."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from transreid_ssl.data.images import resize
from transreid_ssl.data.settings import MultiCropConfig, RandomErasingConfig, ReIDAugmentConfig
from transreid_ssl.data.views import MultiCrop, ReIDAugment, shift_image
from transreid_ssl.errors import UserError

PLAIN = MultiCropConfig(flip=0, jitter=0, grayscale=0, global_blur=(0,), local_blur=0,
                        global_solarize=(0,))  # fmt: skip
NO_ERASING = RandomErasingConfig(probability=0)


def picture(seed: int, height: int = 144, width: int = 64) -> np.ndarray:
    """Colourful clouds, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)


def test_defaults_give_two_global_and_eight_local_views():
    groups = MultiCrop(MultiCropConfig())(picture(0), np.random.default_rng(0))
    assert [len(group) for group in groups] == [2, 8]
    for group, size in zip(groups, ((256, 128), (128, 64))):
        for view in group:
            assert view.shape == (*size, 3)
            assert view.dtype == np.uint8
            assert view.flags.c_contiguous


def test_the_generator_alone_decides():
    multi_crop, image = MultiCrop(MultiCropConfig()), picture(0)
    before = image.copy()
    first, again, other = (
        np.concatenate([v.ravel() for g in multi_crop(image, np.random.default_rng(s)) for v in g])
        for s in ((1, 2, 3), (1, 2, 3), (1, 2, 4))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5
    np.testing.assert_array_equal(image, before)


def test_sampled_parameters_applied_are_the_call():
    erasing = RandomErasingConfig(probability=0.5)
    multi_crop = MultiCrop(MultiCropConfig(num_global=3, erasing=erasing))
    image = picture(3)
    (*_, called), _ = multi_crop(image, np.random.default_rng(9))
    views = multi_crop.sample(np.random.default_rng(9), *image.shape[:2])
    np.testing.assert_array_equal(multi_crop.apply(image, views[2]), called)


def test_a_view_of_the_whole_image_is_its_resize_and_never_shares_its_memory():
    image = picture(5, 128, 64)
    multi_crop = MultiCrop(replace(PLAIN, num_global=1, num_local=1))
    whole, small = multi_crop.sample(np.random.default_rng(0), 128, 64)
    whole = whole._replace(box=(0, 0, 128, 64))
    expected = cv2.resize(image, (128, 256), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(multi_crop.apply(image, whole), expected)
    linear = MultiCrop(replace(PLAIN, interpolation="linear")).apply(image, whole)
    expected = cv2.resize(image, (128, 256), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(linear, expected)
    mirrored = multi_crop.apply(image, whole._replace(flip=True))
    mirrored_source = np.ascontiguousarray(image[:, ::-1])
    np.testing.assert_array_equal(mirrored, multi_crop.apply(mirrored_source, whole))
    same = multi_crop.apply(image, small._replace(box=(0, 0, 128, 64)))
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


def test_shrinking_averages_instead_of_skipping_pixels():
    checks = np.indices((512, 256)).sum(0) % 2 * np.uint8(200)
    multi_crop = MultiCrop(replace(PLAIN, num_global=1, num_local=0))
    (view,) = multi_crop.sample(np.random.default_rng(0), 512, 256)
    view = view._replace(box=(0, 0, 512, 256))
    image = np.repeat(checks[..., None], 3, 2).astype(np.uint8)
    np.testing.assert_array_equal(multi_crop.apply(image, view), np.full((256, 128, 3), 100))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 300), (700, 400)])
def test_any_source_size_gives_views_of_the_right_size(shape):
    image = picture(6, 700, 400)[: shape[0], : shape[1]]
    multi_crop = MultiCrop(MultiCropConfig(jitter=1))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        for view in multi_crop.sample(rng, *shape):
            top, left, height, width = view.box
            assert 0 <= top < top + height <= shape[0]
            assert 0 <= left < left + width <= shape[1]
            assert multi_crop.apply(image, view).shape == (*view.size, 3)


def test_an_image_of_another_kind_is_refused():
    for wrong in (np.zeros((8, 4), np.uint8), np.zeros((8, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            MultiCrop(MultiCropConfig())(wrong, np.random.default_rng(0))


def test_moco_views_are_the_same_class_with_other_numbers():
    erasing = RandomErasingConfig(area=(0.02, 0.6), fill="mean", mean=(1, 0, 1))
    config = MultiCropConfig(num_local=0, global_scale=(0.2, 1), jitter=0, global_blur=(0.5,),
                             global_solarize=(0,), grayscale=0, erasing=erasing)  # fmt: skip
    multi_crop = MultiCrop(config)
    image = np.full((100, 50, 3), 90, np.uint8)
    erased = []
    for seed in range(200):
        (views,) = multi_crop(image, np.random.default_rng(seed))
        erased += [np.all(view == (255, 0, 255), axis=2).mean() for view in views]
    assert np.mean(np.array(erased) > 0) == pytest.approx(0.5, abs=0.1)
    assert 0.4 < max(erased) <= 0.61


@pytest.mark.parametrize(
    "setting",
    [
        {"num_global": 0},
        {"num_local": -1},
        {"local_size": (-1, 64)},
        {"flip": -0.1},
        {"global_solarize": (0.5, 1.5)},
        {"brightness": -0.1},
        {"blur_sigma": (0.0, 1.0)},
        {"global_size": (0, 128)},
        {"global_scale": (0.4, 1.2)},
        {"ratio": (2.0, 1.0)},
        {"grayscale": 1.5},
        {"global_blur": ()},
        {"hue": 0.3, "jitter_strength": 2.0},
    ],
)
def test_settings_out_of_range_are_one_line_errors(setting):
    with pytest.raises(UserError) as error:
        MultiCropConfig(**setting)
    assert "\n" not in str(error.value)


def test_shifting_is_padding_and_cropping():
    image = picture(7, 20, 10)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    for down, right in ((0, 0), (4, -4), (-3, 2), (-4, -4), (1, 4)):
        crop = padded[4 - down : 24 - down, 4 - right : 14 - right]
        np.testing.assert_array_equal(shift_image(image, down, right), crop)


def test_the_reid_recipe_is_resize_flip_and_shift():
    image = picture(8)
    config = ReIDAugmentConfig(flip=1, padding=0, erasing=NO_ERASING)
    view = ReIDAugment(config)(image, np.random.default_rng(0))
    np.testing.assert_array_equal(view, resize(image, (256, 128))[:, ::-1])
    assert view.flags.c_contiguous
    cubic = ReIDAugment(replace(config, interpolation="cubic"))(image, np.random.default_rng(0))
    np.testing.assert_array_equal(cubic, resize(image, (256, 128), "cubic")[:, ::-1])
    assert (cubic != view).any()
    shifts = set()
    white = np.full((64, 32, 3), 255, np.uint8)
    augment = ReIDAugment(replace(config, size=(64, 32), padding=3))
    for seed in range(300):
        filled = augment(white, np.random.default_rng(seed))[..., 0] > 0
        # A move leaves one full rectangle; black on one side says how far.
        rows, columns = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
        assert filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        shifts.add((int(rows[0]) - (63 - int(rows[-1])), int(columns[0]) - (31 - int(columns[-1]))))
    assert shifts == {(down, right) for down in range(-3, 4) for right in range(-3, 4)}


def test_the_reid_recipe_repeats_and_leaves_its_input_alone():
    image = picture(9, 256, 128)
    before = image.copy()
    augment = ReIDAugment(ReIDAugmentConfig())
    first, again = (augment(image, np.random.default_rng([4, 2])) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for seed in range(10):
        view = augment(image, np.random.default_rng(seed))
        assert view.shape == (256, 128, 3)
        assert view.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
