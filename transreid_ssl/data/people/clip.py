"""A generated clip: people walk past cameras, and a track file says where they are."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from transreid_ssl.data.people.figure import draw_figure
from transreid_ssl.data.people.painter import Stance
from transreid_ssl.data.people.render import person_of
from transreid_ssl.data.people.scene import build_camera, compose, develop
from transreid_ssl.data.tracks.settings import ClipConfig
from transreid_ssl.errors import UserError
from transreid_ssl.files import new_folder

_WALK = 21  # a tag that keeps the random streams apart
RATE = 10  # frames a second
_STAY = 12 * RATE  # frames before and after its middle that a person who stands is there


@dataclass(frozen=True)
class _Walk:
    """How a person passes a camera; lengths are in pixels."""

    identity: int
    middle: int  # the frame in which the person is at ``across``
    across: float
    speed: float  # a frame, below 0 to the left; 0: stands
    ground: float  # the row that the feet are on
    height: float  # of the body

    def place(self, frame: int) -> float:
        """The column of the body's axis."""
        return self.across + self.speed * (frame - self.middle)

    def is_there(self, frame: int) -> bool:
        """Whether a person who stands has come and not yet gone; who walks is always somewhere."""
        return self.speed != 0 or abs(frame - self.middle) <= _STAY

    def stance(self, frame: int, left: int) -> Stance:
        """How the person is seen in a picture that begins with column ``left``."""
        yaw = math.copysign(math.pi / 2, self.speed) if self.speed else 0.0
        phase = 2 * math.pi * self.place(frame) / (0.8 * self.height)
        foot = self.place(frame) - left, self.ground
        return Stance(yaw, phase, 0.4 if self.speed else 0.1, foot, self.height)


def write_clip(
    config: ClipConfig, out: str | Path, tick: Callable[[], object] = lambda: None
) -> None:
    """Write ``camera1.avi`` (motion JPEG) and ``camera1.txt`` (MOTChallenge's format) and so on.

    A track has the number of its person, from 1; its boxes hold what would be seen of the person if
    nobody stood before, and may reach out of the frame. ``tick`` is called for every frame.

    Raises:
        UserError: ``out`` exists or cannot be written, or OpenCV cannot write videos.
    """
    with new_folder(out) as folder:
        for number in range(config.cameras):
            lines = _film(config, number, folder / f"camera{number + 1}.avi", tick)
            (folder / f"camera{number + 1}.txt").write_text("".join(lines))


def _film(config: ClipConfig, number: int, path: Path, tick: Callable[[], object]) -> list[str]:
    """Write the video of one camera; returns the lines of its track file."""
    height, width = size = config.height, config.height // 3 * 4
    camera = build_camera(config.seed, 0, "moderate", (height, width // 4), number)
    scene = camera.scene[:, :width]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE, size[::-1])
    if not writer.isOpened():
        raise UserError(f"{path}: cannot be written as a video; install opencv-python-headless")
    rng = np.random.default_rng([config.seed, number, _WALK])
    walks, lines = _draw_walks(config, rng, size), []
    for frame in range(config.frames):
        # With room at both sides, for who is partly in the picture.
        image = cv2.copyMakeBorder(scene, 0, 0, height, height, cv2.BORDER_REPLICATE)
        for walk in walks:
            left = math.floor(walk.place(frame) - height / 2)
            if -height < left < width and walk.is_there(frame):
                columns, rows = _draw(image, config.seed, walk, frame, left)
                found = [frame + 1, walk.identity + 1, left + columns[0], rows[0]]
                found += [len(columns), len(rows), f"{rng.uniform(0.5, 1):.2f}", -1, -1, -1]
                lines.append(",".join(map(str, found)) + "\n")
        light = np.random.default_rng([config.seed, number])  # the same in every frame
        picture = develop(image[:, height:-height].copy(), camera, light, 0.3)
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
        tick()
    writer.release()
    return lines


def _draw(
    image: np.ndarray, seed: int, walk: _Walk, frame: int, left: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put a person into the widened frame; returns the columns, from ``left``, and rows covered."""
    height = len(image)
    layer = draw_figure(person_of(seed, walk.identity), walk.stance(frame, left), (height, height))
    compose(image[:, left + height : left + 2 * height], layer)
    covered = layer[..., 3] > 0.5
    return np.flatnonzero(covered.any(0)), np.flatnonzero(covered.any(1))


def _draw_walks(config: ClipConfig, rng: np.random.Generator, size: tuple[int, int]) -> list[_Walk]:
    """From far to near; the fifth, tenth, … person stands for a while."""
    height, width = size
    walks = []
    for identity in range(config.people):
        near, body_speed, side, place = rng.uniform(0, 1, 4)
        body = height * (0.4 + 0.25 * near)
        stands = identity % 5 == 4
        speed = 0.0 if stands else math.copysign(body * (0.04 + 0.04 * body_speed), side - 0.5)
        across = width * (0.15 + 0.7 * place if stands else 0.5)
        middle = int(rng.integers(config.frames))
        walks.append(_Walk(identity, middle, across, speed, height * (0.7 + 0.26 * near), body))
    return sorted(walks, key=lambda walk: walk.ground)
