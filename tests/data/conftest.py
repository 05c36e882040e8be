"""Real image files to try things on, and caches that end with the test."""

import cv2
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    """Indexes and converted shards go to a folder of this test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRANSREID_SSL_CACHE", str(folder / "index"))
    return folder


@pytest.fixture
def picture():
    """A function from a number to a uint8 RGB image (64, 32, 3): noise on a colour of its own."""

    def draw(number: int, size: tuple[int, int] = (64, 32)) -> np.ndarray:
        rng = np.random.default_rng(number)
        base = rng.integers(40, 200, 3)
        return (base + rng.integers(-20, 20, (*size, 3))).astype(np.uint8)

    return draw


@pytest.fixture
def encoded(picture):
    """A function from a number to the bytes of a JPEG."""

    def encode(number: int, extension: str = ".jpg") -> bytes:
        return cv2.imencode(extension, picture(number)[..., ::-1])[1].tobytes()

    return encode


@pytest.fixture
def write_images(encoded):
    """Write a different JPEG for each name below a folder."""

    def write(folder, names):
        for number, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(number))
        return folder

    return write
