"""Decoding: the same picture whatever the encoding, and no broken file passes."""

import io
import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from transreid_ssl.data.images import CorruptImage, claimed_size, decode, resize


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


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A black and white PNG that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def claiming(kind: str, picture: np.ndarray) -> bytes:
    """A small file of this kind whose header says 60,000 x 60,000 (16,383 for WebP)."""
    encoded = bytearray(saved(Image.fromarray(picture), kind, lossless=True))
    if kind == "JPEG":
        at = encoded.index(b"\xff\xc0") + 5
        encoded[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    elif kind == "BMP":
        encoded[18:26] = struct.pack("<ii", 60_000, 60_000)
    elif kind == "GIF":
        encoded[6:10] = struct.pack("<HH", 60_000, 60_000)
    elif kind == "WEBP":
        encoded[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)
    else:
        for tag in (256, 257):
            at = encoded.index(struct.pack("<HHI", tag, 4, 1))
            encoded[at + 8 : at + 12] = struct.pack("<I", 60_000)
    return bytes(encoded)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_a_header_that_claims_gigapixels_is_refused_undecoded(picture, kind, monkeypatch):
    bomb = claiming(kind, picture(0))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("pixels were made"))
    with pytest.raises(CorruptImage, match="claims more than 80 megapixels"):
        decode(bomb, "bomb")


def test_a_png_bomb_is_refused_and_a_large_png_is_not(monkeypatch):
    assert decode(png(4_000, 2_000, bytes(2_000 * 501)), "large").shape == (2_000, 4_000, 3)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("pixels were made"))
    for width, height in ((30_000, 30_000), (8_001, 10_000)):
        with pytest.raises(CorruptImage, match="megapixels"):
            decode(png(width, height), "bomb")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_the_size_is_told_from_the_header(picture, kind):
    image = Image.fromarray(picture(1, (70, 30)))
    assert claimed_size(saved(image, kind)) == (70, 30)
    assert decode(saved(image, kind), "x").shape == (70, 30, 3)


def test_a_rotated_and_an_animated_image(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    image = Image.fromarray(picture(1))
    assert decode(saved(image, "JPEG", exif=exif), "x").shape == (32, 64, 3)
    red, blue = (Image.new("RGB", (32, 64), colour) for colour in ("red", "blue"))
    for kind in ("GIF", "WEBP", "PNG"):
        first = decode(saved(red, kind, save_all=True, append_images=[blue]), "x")
        assert np.abs(first.mean((0, 1)) - (255, 0, 0)).max() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_the_smallest_and_the_longest(picture, size):
    image = decode(cv2.imencode(".png", picture(0, size))[1].tobytes(), "x")
    assert image.shape == (*size, 3)
    for method in ("linear", "cubic"):
        assert resize(image, (256, 128), method).shape == (256, 128, 3)


def test_a_name_stays_on_its_line():
    assert str(CorruptImage("a\nb\x1b[31m ä.jpg", "empty")) == r"a\nb\x1b[31m ä.jpg: empty"
