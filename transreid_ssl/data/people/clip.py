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
from transreid_ssl.data.people.scene import build_camera, compose, develop, light_figure
from transreid_ssl.errors import UserError, check_ranges
from transreid_ssl.files import new_folder

_WALK, _SCORE = 21, 22  # tags that keep the random streams apart
RATE = 10  # frames a second


@dataclass(frozen=True)
class ClipConfig:
    """What to film.

    Args:
        people: How many walk past each camera; those of one number are one person in all.
        cameras: How many cameras, each a video.
        frames: Of each video, at 10 a second.
        height: Of a frame, in pixels; it is 4/3 as wide.
        seed: Another seed is another clip.
    """

    people: int = 8
    cameras: int = 2
    frames: int = 120
    height: int = 240
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            people=(1, 10_000),
            cameras=(1, 1_000),
            frames=(1, 10**6),
            height=(96, 2_160),
            seed=(0, 2**63 - 1),
        )


@dataclass(frozen=True)
class _Walk:
    """How a person passes a camera, as seen from the side; lengths are in pixels."""

    identity: int
    middle: int  # the frame in which the middle of the picture is reached
    speed: float  # a frame, below 0 to the left; 0: stands
    across: float  # of the middle frame
    ground: float  # the row that the feet are on
    height: float  # of the body

    def place(self, frame: int) -> float:
        """The column of the body's axis."""
        return self.across + self.speed * (frame - self.middle)


def write_clip(
    config: ClipConfig, out: str | Path, tick: Callable[[], object] = lambda: None
) -> None:
    """Write ``camera1.avi`` (motion JPEG) and ``camera1.txt`` (MOTChallenge's format) and so on.

    A track has the number of its person, from 1, and lists the box of all that would be seen if
    nobody stood before it; boxes may reach out of the frame. ``tick`` is called for every frame.

    Raises:
        UserError: ``out`` exists or cannot be written, or OpenCV cannot write videos.
    """
    with new_folder(out) as folder:
        for number in range(config.cameras):
            lines = _film(config, number, folder / f"camera{number + 1}.avi", tick)
            (folder / f"camera{number + 1}.txt").write_text("".join(lines))


def _film(config: ClipConfig, number: int, path: Path, tick: Callable[[], object]) -> list[str]:
    """Write the video of one camera; returns the lines of its track file."""
    height, width = config.height, config.height // 3 * 4
    camera = build_camera(config.seed, 0, "moderate", (height, width // 4), number)
    code = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), code, RATE, (width, height))
    if not writer.isOpened():
        raise UserError(f"{path}: cannot be written as a video; install opencv-python-headless")
    walks, lines = _draw_walks(config, number, (height, width)), []
    for frame in range(config.frames):
        image = camera.scene[:, :width].copy()
        for walk in walks:
            if box := _draw(image, config.seed, walk, frame):
                rng = np.random.default_rng([config.seed, number, walk.identity, frame, _SCORE])
                top, left, tall, wide = box
                found = [frame + 1, walk.identity + 1, left, top, wide, tall]
                lines.append(f"{','.join(map(str, found))},{rng.uniform(0.5, 1):.2f},-1,-1,-1\n")
        light = np.random.default_rng([config.seed, number])  # the same in every frame
        writer.write(np.ascontiguousarray(develop(image, camera, light, 0.3)[..., ::-1]))
        tick()
    writer.release()
    return lines


def _draw_walks(config: ClipConfig, number: int, size: tuple[int, int]) -> list[_Walk]:
    """From far to near; the fifth, tenth, … person stands."""
    height, width = size
    rng = np.random.default_rng([config.seed, number, _WALK])
    walks = []
    for identity in range(config.people):
        near = rng.uniform(0, 1)
        body = height * (0.4 + 0.25 * near)
        stands = identity % 5 == 4
        speed = 0.0 if stands else body * rng.uniform(0.04, 0.08) * rng.choice([-1, 1])
        middle = int(rng.integers(0, config.frames))
        across = width * (rng.uniform(0.15, 0.85) if stands else 0.5)
        walks.append(_Walk(identity, middle, speed, across, height * (0.7 + 0.26 * near), body))
    return sorted(walks, key=lambda walk: walk.ground)


def _draw(
    image: np.ndarray, seed: int, walk: _Walk, frame: int
) -> tuple[int, int, int, int] | None:
    """Put a person into the frame float32 (H, W, 3), in place.

    Returns its box (top, left, height, width), or None if it is not to be seen.
    """
    tall, wide = math.ceil(1.1 * walk.height), math.ceil(0.8 * walk.height)
    across = walk.place(frame)
    top, left = (
        math.floor(walk.ground) - math.ceil(1.04 * walk.height),
        math.floor(across - wide / 2),
    )
    if left + wide <= 0 or left >= image.shape[1]:
        return None
    stance = Stance(
        yaw=math.copysign(math.pi / 2, walk.speed) if walk.speed else 0.0,
        phase=2 * math.pi * across / (0.8 * walk.height),
        stride=0.4 if walk.speed else 0.1,
        foot=(across - left, walk.ground - top),
        height=walk.height,
    )
    layer = draw_figure(person_of(seed, walk.identity), stance, (tall, wide))
    light_figure(layer, stance.foot[0], 0.16 * walk.height, 0.4)
    rows, columns = (np.flatnonzero((layer[..., 3] > 0.5).any(axis)) for axis in (1, 0))
    first = max(0, -top), max(0, -left)
    last = min(tall, image.shape[0] - top), min(wide, image.shape[1] - left)
    inside = image[top + first[0] : top + last[0], left + first[1] : left + last[1]]
    compose(inside, np.ascontiguousarray(layer[first[0] : last[0], first[1] : last[1]]))
    if columns[-1] < first[1] or columns[0] >= last[1]:
        return None
    size = int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
    return top + int(rows[0]), left + int(columns[0]), *size
