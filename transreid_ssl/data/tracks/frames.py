"""The frames of a video, one after the other: of a video file, or of a folder of images."""

import configparser
import re
from pathlib import Path

import cv2
import numpy as np

from transreid_ssl.data.folder import list_images
from transreid_ssl.data.images import MAX_PIXELS, CorruptImage, decode
from transreid_ssl.data.pool import FilesPool
from transreid_ssl.errors import UserError, brief
from transreid_ssl.reading import read_lines

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
_FASTEST = 10_000  # frames a second
_NO_FRAME = "beyond the end of the video"


class VideoFile:
    """The frames of a video file, found by counting: seeking is not exact in many containers.

    ``size`` is (height, width), ``rate`` frames a second, or NaN where the file does not say.

    Raises:
        UserError: OpenCV cannot read the file, or its frames are too large.
    """

    rate: float
    size: tuple[int, int]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()
        width, height = (
            self._capture.get(what)
            for what in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > MAX_PIXELS:
            raise UserError(f"{path}: frames of more than {MAX_PIXELS // 10**6} megapixels")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < _FASTEST else float("nan")
        try:
            self.size = self.frame(0).shape[:2]  # what is said of rotated videos may be wrong
        except CorruptImage as error:
            raise UserError(f"{path}: no frame of it can be read; convert the video") from error

    def _begin(self) -> None:
        self._capture, self._next, self._image = cv2.VideoCapture(str(self.path)), 0, None
        if not self._capture.isOpened():
            raise UserError(f"{self.path}: no video that OpenCV can read; convert it")

    def frame(self, place: int) -> np.ndarray:
        """The frame ``place``, from 0: uint8 (H, W, 3) RGB. Quick if places never fall.

        Raises:
            CorruptImage: the video ends before it.
        """
        if place < self._next - 1:
            self._begin()
        while self._next <= place:
            if not self._capture.grab():
                raise CorruptImage(f"{self.path}: frame {place}", _NO_FRAME)
            self._next, self._image = self._next + 1, None
        if self._image is None:
            _, image = self._capture.retrieve()
            if image is None:
                raise CorruptImage(f"{self.path}: frame {place}", "a frame that cannot be decoded")
            self._image = image[..., ::-1]
        return self._image


class FrameFolder:
    """The same of a folder of images, in the order of their names.

    If all names are numbers, as in MOTChallenge's ``img1``, these count, from 0 or from 1: frames
    may lack then. The rate is that in ``seqinfo.ini`` beside the folder.
    """

    def __init__(self, path: Path) -> None:
        names = list_images(path)
        if not names:
            raise UserError(f"{path}: no frame in it")
        self._pool = FilesPool(str(path), path, names)
        stems = [Path(name).stem for name in names]
        numbers = [int(stem) for stem in stems if re.fullmatch(r"[0-9]{1,15}", stem)]
        if len(numbers) < len(names):
            numbers = range(len(names))
        first = 0 if 0 in numbers else 1
        self._places = {number - first: index for index, number in enumerate(numbers)}
        self._place, self._image = -1, None
        self.rate: float = _sequence_rate(path.parent / "seqinfo.ini")
        try:
            self.size: tuple[int, int] = self._decoded(0).shape[:2]
        except CorruptImage as error:
            raise UserError(f"{path}: the first frame is broken ({error}); replace it") from error

    def _decoded(self, index: int) -> np.ndarray:
        return decode(self._pool.read(index), self._pool.names[index])

    def frame(self, place: int) -> np.ndarray:
        """As of ``VideoFile``."""
        if place not in self._places:
            raise CorruptImage(f"{self._pool.source}: frame {place}", _NO_FRAME)
        if place != self._place:
            self._image, self._place = self._decoded(self._places[place]), place
        return self._image


def open_frames(path: Path) -> VideoFile | FrameFolder:
    """The frames of a video file or of a folder."""
    return FrameFolder(path) if path.is_dir() else VideoFile(path)


def _sequence_rate(path: Path) -> float:
    """``frameRate`` of a sequence file of MOTChallenge's, NaN where there is none."""
    if not path.is_file():
        return float("nan")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string("\n".join(read_lines(path)))
        rate = parser.getfloat("Sequence", "frameRate", fallback=float("nan"))
    except (configparser.Error, ValueError) as error:
        raise UserError(
            f"{path}: no sequence file ({brief(error)}); correct or remove it"
        ) from error
    return rate if 0 < rate < _FASTEST else float("nan")
