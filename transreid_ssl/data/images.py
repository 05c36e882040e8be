"""From encoded bytes to a uint8 RGB array, and the one way to resize it."""

import io
from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from transreid_ssl.data.settings import Interpolation

MAX_PIXELS = 80_000_000
"""Larger images are refused undecoded: a few kilobytes can claim to be gigapixels."""

REPLACE = "remove or replace this image"
"""What to do where an image that cannot be used stops a command."""

_JPEG_START, _JPEG_END, _JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
# Start-of-frame markers; C4, C8 and CC between them are others.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


class CorruptImage(Exception):
    """An image that cannot be used: ``name`` says which, ``reason`` says why."""

    name: str
    reason: str

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both as args, so that it survives pickling between workers
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{printable(self.name)}: {self.reason}"


def printable(name: str) -> str:
    """A name for a line of text: a line break or a control character in it becomes its escape."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def decode(encoded: bytes, name: str = "image") -> np.ndarray:
    """Decode an image file to a contiguous uint8 array (H, W, 3) in RGB order.

    Greyscale, palette, 16-bit, transparent (alpha is dropped) and CMYK files all become RGB; of an
    animation the first picture is taken, and what EXIF says of its rotation is done.

    Raises:
        CorruptImage: empty, no known image format, broken, cut off before its end, or of more than
            ``MAX_PIXELS``. OpenCV fills what a cut-off JPEG lacks with grey and goes on, so its end
            is checked here. What cannot be told is a JPEG that lacks pixels and has its end marker,
            as some download programs write it: its lower part is grey.
    """
    reason = truncation(encoded) or _unreadable_size(encoded)
    if reason:
        raise CorruptImage(name, reason)
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise CorruptImage(name, f"cannot be decoded ({str(error.err).strip()})") from error
    if image is None:
        raise CorruptImage(name, "cannot be decoded (no known image format, or broken)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def truncation(encoded: bytes) -> str | None:
    """Why the file is not whole (empty, or a JPEG or PNG without its end), or None."""
    if not encoded:
        return "empty (0 bytes)"
    if encoded.startswith(_JPEG_START) and not _jpeg_ends(encoded):
        return "truncated JPEG (no end marker)"
    if encoded.startswith(_PNG_START) and _PNG_END not in encoded[-4096:]:
        return "truncated PNG (no end chunk)"
    return None


def _jpeg_ends(encoded: bytes) -> bool:
    """Whether the end marker follows the pixels.

    Padding or a camera maker's trailer after the end is common and harmless, but an end marker
    inside the header belongs to a thumbnail, so the search starts at the first scan.
    """
    if encoded.endswith(_JPEG_END):
        return True
    for marker, position in _jpeg_segments(encoded):
        if marker == _JPEG_SCAN:
            return encoded.find(_JPEG_END, position) >= 0
    return False


def _jpeg_segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG's header with the positions of what follows each."""
    position = 2
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        yield marker, position + 2
        standalone = marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8
        length = int.from_bytes(encoded[position + 2 : position + 4], "big")
        position += (1 if marker == 0xFF else 2) if standalone else 2 + length


def claimed_size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) as the header says, without decoding; None for no known image format."""
    if encoded.startswith(_PNG_START):
        return int.from_bytes(encoded[20:24], "big"), int.from_bytes(encoded[16:20], "big")
    if encoded.startswith(_JPEG_START):
        for marker, position in _jpeg_segments(encoded):
            if marker in _JPEG_FRAMES:
                height, width = encoded[position + 3 : position + 5], encoded[position + 5 :][:2]
                return int.from_bytes(height, "big"), int.from_bytes(width, "big")
    return _claimed_to_pillow(encoded)


def _claimed_to_pillow(encoded: bytes) -> tuple[int, int] | None:
    """The same for any other format; Pillow reads no more than the header when it opens a file."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.height, image.width
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # from 89 megapixels on
        return MAX_PIXELS, MAX_PIXELS
    except Exception:  # of damaged headers it raises nearly anything
        return None


def _unreadable_size(encoded: bytes) -> str | None:
    """Why an image of the size in the header is not decoded, or None."""
    size = claimed_size(encoded)
    if size is None:
        return "cannot be decoded (no known image format, or broken)"
    if size[0] * size[1] > MAX_PIXELS:
        return f"claims more than {MAX_PIXELS // 10**6} megapixels"
    return None


def sharpness(image: np.ndarray) -> float:
    """The variance of the Laplacian of the grey image, of uint8 (H, W, 3) RGB: low if blurred."""
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def resize(
    image: np.ndarray, size: tuple[int, int], interpolation: Interpolation = "linear"
) -> np.ndarray:
    """Resize uint8 (H, W, 3) to ``size`` = (height, width).

    "linear": shrinking averages areas, which keeps thin stripes from aliasing, and growing is
    linear. "cubic": Pillow's bicubic, which is sharper. "cubic", and an image of which one side
    shrinks and the other grows, are resampled by Pillow's filters, which widen along a side that
    shrinks; the result is Pillow's up to rounding.
    """
    height, width = size
    old_height, old_width = image.shape[:2]
    if (old_height, old_width) == (height, width):
        return image
    if interpolation == "linear" and old_height >= height and old_width >= width:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if interpolation == "linear" and old_height <= height and old_width <= width:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return _resample(image, size, {"linear": "bilinear", "cubic": "bicubic"}[interpolation])


def _resample(image: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """Pillow's resampling in PyTorch's vectorised form, which takes less than half of the time.

    OpenCV's cubic filter is another one (a = -0.75, not -0.5) and never widens.
    """
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))
    planes = F.interpolate(pixels.permute(2, 0, 1)[None], size, mode=mode, antialias=True)
    return cv2.merge(list(planes[0].numpy()))
