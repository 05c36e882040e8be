"""Decoding: the same picture whatever the encoding, and no broken file passes."""

import io
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from transreid_ssl.data.images import CorruptImage, decode, resize


def by_pillow(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("extension", [".png", ".bmp", ".webp", ".jpg"])
def test_colours_come_as_rgb(picture, encoded, extension):
    image = decode(encoded(3, extension), "x")
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    if extension in (".png", ".bmp"):
        np.testing.assert_array_equal(image, picture(3))
    else:
        difference = image.mean((0, 1)) - picture(3).mean((0, 1))
        assert np.abs(difference).max() < 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "LA", "I;16", "1"])
def test_every_colour_mode_becomes_rgb(picture, mode):
    image = Image.fromarray(picture(5))
    if mode == "I;16":
        grey = (np.arange(64 * 32).reshape(64, 32) * 30).astype(np.uint16)
        encoded = saved(Image.fromarray(grey), "PNG")
        expected = np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, 2)
    else:
        encoded = saved(image.convert(mode), "JPEG" if mode == "CMYK" else "PNG")
        expected = by_pillow(encoded)
    decoded = decode(encoded, "x")
    assert decoded.shape == (64, 32, 3)
    assert np.abs(decoded.astype(int) - expected).max() <= (12 if mode == "CMYK" else 1)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_truncated_files_are_refused(encoded, share, extension):
    whole = encoded(1, extension)
    with pytest.raises(CorruptImage) as caught:
        decode(whole[: int(len(whole) * share)], "a.jpg")
    assert caught.value.name == "a.jpg"
    assert "truncated" in caught.value.reason


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_thumbnail_does_not_hide_a_truncated_jpeg(picture, options):
    image = Image.fromarray(picture(2, (200, 100)))
    thumbnail = saved(image.resize((16, 32)), "JPEG")
    exif = b"Exif\0\0" + thumbnail
    whole = saved(image, "JPEG", exif=exif, **options)
    assert whole.count(b"\xff\xd9") == 2
    assert decode(whole, "x").shape == (200, 100, 3)
    for share in (0.5, 0.9):
        with pytest.raises(CorruptImage, match="truncated"):
            decode(whole[: int(len(whole) * share)], "x")
    # cut just behind the thumbnail, and padded: the end marker in the header is not the end
    with pytest.raises(CorruptImage, match="truncated"):
        decode(whole[: whole.index(b"\xff\xd9") + 2] + b"\0" * 10, "x")


@pytest.mark.parametrize("padding", [b"\0", b"\0" * 4096, b"\xff", b"\n", b"maker's trailer" * 50])
def test_padding_after_the_end_is_harmless(encoded, padding):
    np.testing.assert_array_equal(decode(encoded(1) + padding, "x"), decode(encoded(1), "x"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"<html>not found</html>", "no known image format"), (b"\0" * 99, "decoded")],
)
def test_what_is_no_image_is_refused(content, reason):
    with pytest.raises(CorruptImage, match=reason):
        decode(content, "x.jpg")


def test_the_exception_crosses_processes():
    error = pickle.loads(pickle.dumps(CorruptImage("a.jpg", "empty")))
    assert (error.name, error.reason, str(error)) == ("a.jpg", "empty", "a.jpg: empty")


def test_resize_takes_height_then_width(picture):
    image = picture(0)
    assert resize(image, (256, 128)).shape == (256, 128, 3)
    assert resize(image, (64, 32)) is image
    shrunk = resize(image, (32, 16)).astype(int)
    blocks = image.reshape(32, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(shrunk - blocks).max() <= 1, "shrinking by 2 is the mean of 2 x 2"
    reference = np.asarray(Image.fromarray(image).resize((128, 256), Image.Resampling.BILINEAR))
    assert np.abs(resize(image, (256, 128)).astype(int) - reference).max() <= 2


def smooth(height: int, width: int) -> np.ndarray:
    """A random image that is smooth, as crops from videos are."""
    noise = np.random.default_rng(height).normal(size=(height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return (127 + 50 * blurred / blurred.std()).clip(0, 255).astype(np.uint8)


def by_pillow_resized(image: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    resampling = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}[method]
    return np.asarray(Image.fromarray(image).resize(size[::-1], resampling)).astype(int)


LARGER, SMALLER, MIXED = (128, 64), (600, 250), [(300, 90), (400, 100), (200, 180)]


@pytest.mark.parametrize("given", [LARGER, SMALLER, *MIXED])
def test_cubic_is_pillows_bicubic(given):
    image = smooth(*given)
    resized = resize(image, (256, 128), "cubic")
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous
    difference = np.abs(resized - by_pillow_resized(image, (256, 128), "cubic"))
    assert difference.mean() < 0.4
    assert difference.max() <= 6


@pytest.mark.parametrize("given", MIXED)
def test_one_side_shrinks_and_the_other_grows_as_in_pillow(given):
    image = smooth(*given)
    expected = by_pillow_resized(image, (256, 128), "linear")
    difference = np.abs(resize(image, (256, 128)) - expected)
    assert difference.mean() < 0.4
    assert difference.max() <= 2
    plain = cv2.resize(image, (128, 256), interpolation=cv2.INTER_LINEAR)
    assert np.abs(plain - expected).mean() > 0.8, "without a low-pass it differs far more"


@pytest.mark.parametrize(
    ("given", "method"), [(LARGER, cv2.INTER_LINEAR), (SMALLER, cv2.INTER_AREA)]
)
def test_linear_is_opencvs_where_both_sides_shrink_or_grow(given, method):
    image = smooth(*given)
    expected = cv2.resize(image, (128, 256), interpolation=method)
    np.testing.assert_array_equal(resize(image, (256, 128)), expected)
    for size in ((given[0], 128), (256, given[1])):  # one side stays as it is
        expected = cv2.resize(image, size[::-1], interpolation=method)
        np.testing.assert_array_equal(resize(image, size), expected)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_resizing_takes_any_array_and_changes_none(method):
    image = smooth(300, 90)
    expected = resize(image, (256, 128), method)
    mirrored = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    read_only = image.copy()
    read_only.setflags(write=False)
    for other in (mirrored, read_only):
        np.testing.assert_array_equal(resize(other, (256, 128), method), expected)
