"""Images in, features out: what a program calls that asks who is on two images."""

import os
import threading
from collections.abc import Iterable
from typing import Any, TypeAlias

import cv2
import numpy as np
from PIL import Image, ImageOps

from transreid_ssl.data import FilesPool, Pool, open_pool
from transreid_ssl.errors import UserError
from transreid_ssl.models import Backbone, Calibration, load_backbone
from transreid_ssl.retrieval.embed import embed_images, on_device, require_finite
from transreid_ssl.retrieval.neighbours import nearest_neighbours

One: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
"""An image: the path of a file, an image of Pillow, or uint8 (H, W, 3) in RGB order."""
Images: TypeAlias = One | Iterable[One] | Pool


class Embedder:
    """Features of images by the network of a weights file: ``Embedder("net.safetensors")(images)``.

    Images of any size are resized, and normalised, as everything else here does it. Several threads
    may call one embedder: it works for one of them at a time.

    Args:
        weights: a weights file, folder or Hugging Face id, or a network that was loaded from one.
        device: such as "cuda:1"; by default a GPU where there is one.
        batch_size: images at once.
        flip: add the features of mirrored images; by default where the weights were calibrated so.
        num_workers: processes that read images; 0 reads them in this one.
        precision: "no" (float32), or autocast to "bf16" or "fp16".

    Raises:
        UserError: weights that cannot be read, or a device that cannot be used.
    """

    def __init__(
        self,
        weights: "str | os.PathLike[str] | Backbone",
        device: str | None = None,
        *,
        batch_size: int = 128,
        flip: bool | None = None,
        num_workers: int = 0,
        precision: str = "no",
    ) -> None:
        if isinstance(weights, str | os.PathLike):
            weights = load_backbone(os.fspath(weights))
        self.model: Backbone = on_device(weights, device).eval()
        found = self.model.spec.calibration
        self.flip: bool = bool(found and found.flip) if flip is None else flip
        self.calibration: Calibration | None = found if found and found.flip == self.flip else None
        """What similarities mean; None where that was not found for these features."""
        self._options = {
            "batch_size": batch_size, "num_workers": num_workers, "precision": precision,
            "flip": self.flip,
        }  # fmt: skip
        self._lock = threading.Lock()

    @property
    def calibrated(self) -> bool:
        """Whether ``probability`` can be told."""
        return self.calibration is not None

    def __call__(self, images: Images) -> np.ndarray:
        """Unit features float32 (N, D) of one image, of several mixed as you like, or of a pool.

        A path alone may be a folder's, which is opened as a pool; its images are in the order of
        their names.

        Raises:
            UserError: an image that cannot be read, or features that are not finite.
            TypeError: what is no image.
            ValueError: an array that is not uint8 (H, W, 3), or has no pixels.
        """
        if isinstance(images, str | os.PathLike) and os.path.isdir(images):
            images = open_pool(str(images))
        pool = images if isinstance(images, Pool) else _Given(images)
        if not len(pool):
            return np.empty((0, self.model.spec.embed_dim), np.float32)
        with self._lock:
            features = embed_images(self.model, pool, **self._options)[0].numpy()
        require_finite(features, pool.names)
        return features

    def compare(self, a: Images, b: Images) -> np.ndarray:
        """The cosine similarities float32 (A, B) of two sets, of images or of features."""
        return self._features(a) @ self._features(b).T

    def search(self, query: Images, gallery: Images, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` most similar of a gallery: similarities float32 and rows int64, both (Q, k).

        Both sets may be images or features; never more than a block of similarities is held. Of a
        gallery of fewer than ``k`` all are given.
        """
        device = next(self.model.parameters()).device
        sides = self._features(query), self._features(gallery)
        distances, rows = nearest_neighbours(*sides, k=k, device=device)
        return 1 - distances.numpy(), rows.numpy()

    def probability(self, similarity: Any) -> np.ndarray:
        """How probably images of this cosine similarity show one person, float64 of its shape.

        That is where as many pairs show one person as show two; see ``Calibration``.

        Raises:
            UserError: the weights are not calibrated, or for other features.
        """
        if self.calibration is None:
            raise UserError(f"these weights are not calibrated for flip={self.flip}: {CALIBRATE}")
        return self.calibration.probability(similarity)

    def _features(self, images: Images) -> np.ndarray:
        """Features are those of images, or taken as they are."""
        if isinstance(images, np.ndarray) and images.ndim == 2:
            return images.astype(np.float32, copy=False)
        return self(images)


CALIBRATE = "`python -m transreid_ssl.calibrate --weights FILE --data SET` finds what cosines mean"


class _Given(FilesPool):
    """Images as a caller has them; they are read one by one, when they are embedded."""

    def __init__(self, images: One | Iterable[One]) -> None:
        single = isinstance(images, str | os.PathLike | Image.Image)
        single = single or (isinstance(images, np.ndarray) and images.ndim == 3)
        self.images = [images] if single else list(images)
        names = [_checked(image, number) for number, image in enumerate(self.images)]
        super().__init__("given", "", names)

    def read(self, index: int) -> bytes:
        """A file's bytes; pixels as a BMP, which changes none and costs next to nothing."""
        image = self.images[index]
        if isinstance(image, str | os.PathLike):
            return super().read(index)
        if isinstance(image, Image.Image):
            image = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        return cv2.imencode(".bmp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def _checked(image: Any, number: int) -> str:
    """What to call an image in an error: its path, or its place."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"image {number}: an array must be uint8 (H, W, 3), not {image.dtype} {image.shape}"
            )
    elif not isinstance(image, Image.Image):
        kind = type(image).__name__
        raise TypeError(f"image {number}: a path, an image or an array is wanted, not a {kind}")
    return f"image {number}"
