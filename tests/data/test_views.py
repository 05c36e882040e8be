"""Views: each operation against Pillow, their distribution against torchvision's pipeline."""

import random
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms
from torchvision.transforms import functional as F

from transreid_ssl.data import colour
from transreid_ssl.data.boxes import sample_boxes
from transreid_ssl.data.erasing import RandomErasing, RandomErasingConfig
from transreid_ssl.data.images import resize
from transreid_ssl.data.views import (
    MultiCrop,
    MultiCropConfig,
    ReIDAugment,
    ReIDAugmentConfig,
    shift_image,
)
from transreid_ssl.errors import UserError

PLAIN = MultiCropConfig(flip=0, jitter=0, grayscale=0, global_blur=(0,), local_blur=0,
                        global_solarize=(0,))  # fmt: skip
NO_ERASING = RandomErasingConfig(probability=0)


def person(seed: int, height: int = 144, width: int = 64) -> np.ndarray:
    """Blocks of colour with noise, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.uniform(40, 220, 3))
    image[height // 6 : height // 2, width // 5 : -width // 5] = rng.uniform(0, 255, 3)
    image[height // 2 :, width // 4 : -width // 4] = rng.uniform(0, 255, 3)
    image += cv2.GaussianBlur(rng.normal(0, 40, image.shape), (0, 0), 0.7)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    torch.manual_seed(0)


# ------------------------------------------------------------- colours, one by one, beside Pillow


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
    image = person(1)
    expected = np.asarray(pillow(Image.fromarray(image), factor)).astype(int)
    # Pillow rounds the grey mean and the grey image before it mixes them, so 2 for a factor of 0.6.
    assert np.abs(ours(image, factor) - expected).max() <= 2


@pytest.mark.parametrize("shift", [-0.3, -0.1, 0.04, 0.1])
def test_hue_equals_pillow_up_to_its_8_bit_hues(shift):
    image = person(2)
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
        image = person(seed)
        factors = [*rng.uniform(0.6, 1.4, 3), rng.uniform(-0.1, 0.1)]
        order = rng.permutation(4).tolist()
        ours = colour.adjust_colours(image, [(kind, factors[kind]) for kind in order])
        expected = Image.fromarray(image)
        for kind in order:
            expected = pillow[kind](expected, factors[kind])
        assert np.abs(ours - np.asarray(expected).astype(int)).mean() < 2.5


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 0.8, 1.2, 1.6, 2.0])
def test_blur_equals_pillow(sigma):
    image = person(4)
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


# ------------------------------------------------------------------------------------ crop boxes


@pytest.mark.parametrize("shape", [(144, 64), (200, 70), (60, 90)])
@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.05, 0.4)])
def test_boxes_are_distributed_as_torchvisions(shape, scale):
    height, width = shape
    number = 3000
    ratio = (3 / 4, 4 / 3)
    rng = np.random.default_rng(5)
    ours = np.array(sample_boxes(rng, height, width, np.array([scale] * number), ratio))
    blank = torch.empty(3, height, width)
    get_params = transforms.RandomResizedCrop.get_params
    theirs = np.array([get_params(blank, scale, ratio) for _ in range(number)])
    for box_figure in (
        lambda box: box[:, 2] * box[:, 3] / (height * width),  # area
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0] / height,
        lambda box: box[:, 1] / width,
        lambda box: np.all(box == box_mode(box), axis=1),  # the fallback's share
    ):
        a, b = box_figure(ours).astype(float), box_figure(theirs).astype(float)
        error = np.hypot(a.std(), b.std()) / number**0.5
        assert abs(a.mean() - b.mean()) <= 4 * error + 1e-12
        assert a.std() == pytest.approx(b.std(), rel=0.1, abs=0.01)


def box_mode(boxes: np.ndarray) -> np.ndarray:
    distinct, counts = np.unique(boxes, axis=0, return_counts=True)
    return distinct[counts.argmax()]


def test_a_crop_that_never_fits_is_the_centre_as_in_torchvision():
    ratio = (3 / 4, 4 / 3)
    for height, width in ((90, 20), (20, 90), (50, 50), (1, 40), (40, 1), (1, 1), (101, 51)):
        rng = np.random.default_rng(0)
        (ours,) = sample_boxes(rng, height, width, np.array([(4.0, 4.0)]), ratio)
        blank = torch.empty(3, height, width)
        assert ours == transforms.RandomResizedCrop.get_params(blank, (4.0, 4.0), ratio)


# ------------------------------------------------- the whole view, beside the reference pipeline


def reference_views(images, config: MultiCropConfig, rounds: int) -> list[np.ndarray]:
    """Figures of the first globals, second globals and locals of torchvision and Pillow."""
    jitter = (config.brightness, config.contrast, config.saturation, config.hue)

    def pipeline(size, scale, blur, solarize):
        sigma = config.blur_sigma
        return transforms.Compose([
            transforms.RandomResizedCrop(
                size, scale, interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(*jitter)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.Lambda(
                lambda image: image.filter(ImageFilter.GaussianBlur(random.uniform(*sigma)))
            )], blur),
            transforms.RandomSolarize(128, solarize),
            np.asarray,
        ])  # fmt: skip

    first = pipeline(config.global_size, config.global_scale, 1.0, 0.0)
    second = pipeline(config.global_size, config.global_scale, 0.1, 0.2)
    local = pipeline(config.local_size, config.local_scale, 0.5, 0.0)
    images = images * rounds
    return [
        view_figures(np.stack([view(Image.fromarray(image)) for image in images]), images)
        for view in (first, second, local)
    ]


def our_views(images, config: MultiCropConfig, rounds: int) -> list[np.ndarray]:
    multi_crop = MultiCrop(replace(config, num_local=1))
    images = images * rounds
    views = [multi_crop(image, np.random.default_rng([7, i])) for i, image in enumerate(images)]
    return [
        view_figures(np.stack([groups[group][k] for groups in views]), images)
        for group, k in ((0, 0), (0, 1), (1, 0))
    ]


FIGURES = ("red", "green", "blue", "contrast", "gradient", "sharpness", "colour", "grey", "dark")
# Pillow cuts decimals off (darker by 1 of 100), and its bicubic is a little softer when it enlarges
# and sharper when it shrinks: this much of the mean is not held against the views.
ALLOWANCE = np.array([0.015, 0.015, 0.015, 0.02, 0.06, 0.06, 0.04, 0, 0.015])


def view_figures(views: np.ndarray, sources: list[np.ndarray]) -> np.ndarray:
    """uint8 (N, H, W, 3) -> (N, figures): colours beside the source's, gradients, greyness."""
    green = views[..., 1].astype(np.float32)
    contrast = green.std((1, 2)) + 1
    gradient = np.abs(np.diff(green, axis=2)).mean((1, 2)) + 0.1
    return np.column_stack([
        views.mean((1, 2)) / [[source.mean()] for source in sources],
        contrast / [source[..., 1].std() for source in sources],
        gradient / contrast,
        np.abs(np.diff(green, 2, axis=2)).mean((1, 2)) / gradient,
        (views[:, ::4, ::4].max(3) - views[:, ::4, ::4].min(3)).mean((1, 2)),
        np.all(views[..., 0] == views[..., 2], axis=(1, 2)),
        (green < 129).mean((1, 2)),  # 1 where solarised
    ])  # fmt: skip


def discrepancies(ours: list[np.ndarray], expected: list[np.ndarray]) -> dict[str, float]:
    """Differences of the figures' means and variances beyond the allowance, in standard errors."""
    found = {}
    for kind, a, b in zip(("global 1", "global 2", "local"), ours, expected):
        pairs = {"mean": (a, b), "variance": ((a - a.mean(0)) ** 2, (b - b.mean(0)) ** 2)}
        for moment, (a, b) in pairs.items():
            error = np.maximum(np.hypot(a.std(0), b.std(0)), 1e-9) / len(a) ** 0.5
            allowed = ALLOWANCE * np.abs(b.mean(0)) * (1 if moment == "mean" else 2)
            beyond = (np.abs(a.mean(0) - b.mean(0)) - allowed) / error
            found |= {f"{kind} {f} {moment}": d for f, d in zip(FIGURES, beyond.tolist())}
    return found


def largest(found: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(found.items(), key=lambda item: -item[1])[:5]


ROUNDS = 15
LIMIT = 3.3  # standard errors; 54 figures are compared
SMALL = MultiCropConfig(global_size=(128, 64), local_size=(96, 48))  # less work


@pytest.fixture(scope="module")
def sources():
    return [person(seed, 90 + 2 * seed, 40 + seed) for seed in range(40)]


@pytest.fixture(scope="module")
def reference(sources):
    random.seed(1)
    torch.manual_seed(1)
    return reference_views(sources, SMALL, ROUNDS)


def test_views_are_distributed_as_the_reference_pipelines(sources, reference):
    found = discrepancies(our_views(sources, SMALL, ROUNDS), reference)
    assert max(found.values()) < LIMIT, largest(found)


@pytest.mark.parametrize(
    "change",
    [
        {"jitter_strength": 2.0},
        {"jitter_strength": 0.5},
        {"grayscale": 0.1},
        {"global_blur": (0.5, 0.1)},
        {"local_blur": 0.0},
        {"blur_sigma": (0.1, 4.0)},
        {"global_solarize": (0.0, 0.5)},
        {"global_scale": (0.2, 1.0)},
    ],
    ids=lambda change: " ".join(change),
)
def test_the_comparison_notices_a_wrong_setting(sources, reference, change):
    found = discrepancies(our_views(sources, replace(SMALL, **change), ROUNDS), reference)
    assert max(found.values()) > LIMIT, largest(found)


# -------------------------------------------------------------------------- multi-crop, exactly


def test_defaults_give_two_global_and_eight_local_views():
    groups = MultiCrop(MultiCropConfig())(person(0), np.random.default_rng(0))
    assert [len(group) for group in groups] == [2, 8]
    for group, size in zip(groups, ((256, 128), (128, 64))):
        for view in group:
            assert view.shape == (*size, 3)
            assert view.dtype == np.uint8
            assert view.flags.c_contiguous


def test_the_generator_alone_decides():
    multi_crop, image = MultiCrop(MultiCropConfig()), person(0)
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
    image = person(3)
    (*_, called), _ = multi_crop(image, np.random.default_rng(9))
    views = multi_crop.sample(np.random.default_rng(9), *image.shape[:2])
    np.testing.assert_array_equal(multi_crop.apply(image, views[2]), called)


def test_a_view_of_the_whole_image_is_its_resize_and_never_shares_its_memory():
    image = person(5, 128, 64)
    multi_crop = MultiCrop(replace(PLAIN, num_global=1, num_local=1))
    whole, small = multi_crop.sample(np.random.default_rng(0), 128, 64)
    whole = whole._replace(box=(0, 0, 128, 64))
    expected = cv2.resize(image, (128, 256), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(multi_crop.apply(image, whole), expected)
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
    image = person(6, 700, 400)[: shape[0], : shape[1]]
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
        {"num_global": 0, "num_local": 0},
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


# --------------------------------------------------------------------------------- fine-tuning


def test_shifting_is_padding_and_cropping():
    image = person(7, 20, 10)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    for down, right in ((0, 0), (4, -4), (-3, 2), (-4, -4), (1, 4)):
        crop = padded[4 - down : 24 - down, 4 - right : 14 - right]
        np.testing.assert_array_equal(shift_image(image, down, right), crop)


def test_the_reid_recipe_is_resize_flip_and_shift():
    image = person(8)
    config = ReIDAugmentConfig(flip=1, padding=0, erasing=NO_ERASING)
    view = ReIDAugment(config)(image, np.random.default_rng(0))
    np.testing.assert_array_equal(view, resize(image, (256, 128))[:, ::-1])
    assert view.flags.c_contiguous
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
    image = person(9, 256, 128)
    before = image.copy()
    augment = ReIDAugment(ReIDAugmentConfig())
    first, again = (augment(image, np.random.default_rng([4, 2])) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for seed in range(10):
        view = augment(image, np.random.default_rng(seed))
        assert view.shape == (256, 128, 3)
        assert view.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


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
