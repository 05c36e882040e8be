"""Drawing one picture of one generated identity."""

import dataclasses
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from transreid_ssl.data.people.config import PeopleConfig
from transreid_ssl.data.people.figure import draw_figure
from transreid_ssl.data.people.painter import Stance
from transreid_ssl.data.people.scene import (
    build_camera,
    compose,
    develop,
    light_figure,
    occlude,
    window,
)
from transreid_ssl.data.people.wardrobe import Person, dress_person

_PERSON, _CAMERAS, _JUNK, _PICTURE = 1, 2, 3, 4  # tags that keep the random streams apart
_VIEWS = (0, 0, math.pi, math.pi, math.pi / 2, -math.pi / 2)  # front, back, both sides
_JUNK_KINDS = ("background", "part", "two", "blur")


@lru_cache(maxsize=4096)
def person_of(seed: int, identity: int) -> Person:
    """Identity ``identity`` of the people of a seed."""
    return dress_person(np.random.default_rng([seed, identity, _PERSON]))


@lru_cache(maxsize=4096)
def _cameras(seed: int, identity: int, images: int, cameras: int) -> tuple[int, ...]:
    """The camera of each image: every camera that sees the identity sees it at least twice."""
    rng = np.random.default_rng([seed, identity, _CAMERAS])
    seen = rng.permutation(cameras)[: max(1, images // 2)]
    return tuple(int(seen[image % len(seen)]) for image in range(images))


@lru_cache(maxsize=4096)
def _junk(seed: int, identity: int, images: int, share: float) -> tuple[str, ...]:
    """The kind of junk of each image, "" for a good one."""
    if share == 0:
        return ("",) * images
    draws = np.random.default_rng([seed, identity, _JUNK]).random((images, 2))
    kinds = [_JUNK_KINDS[int(draw * len(_JUNK_KINDS))] for draw in draws[:, 1]]
    return tuple(kind if draw < share else "" for draw, kind in zip(draws[:, 0], kinds))


def camera_of(config: PeopleConfig, identity: int, image: int) -> int:
    """The number of the camera that sees ``image`` of ``identity``."""
    return _cameras(config.seed, identity, config.images_per_identity, config.cameras)[image]


def junk_kind(config: PeopleConfig, identity: int, image: int) -> str:
    """ "" for a good image, else "background", "part", "two" or "blur"."""
    return _junk(config.seed, identity, config.images_per_identity, config.junk)[image]


def image_name(config: PeopleConfig, identity: int, image: int) -> str:
    """Such as "p00012_c3_0007.jpg": identity, camera, image; junk ends in "_junk.jpg"."""
    mark = "_junk" if junk_kind(config, identity, image) else ""
    return f"p{identity:05d}_c{camera_of(config, identity, image)}_{image:04d}{mark}.jpg"


def render(config: PeopleConfig, identity: int, image: int) -> np.ndarray:
    """Draw ``image`` (0 … images_per_identity - 1) of ``identity``: uint8 (H, W, 3) RGB.

    ``identity`` is the number itself, not counted from ``first_identity``.
    """
    width = config.size[1]
    rng = np.random.default_rng([config.seed, identity, image, _PICTURE])
    number = camera_of(config, identity, image)
    camera = build_camera(config.seed, config.style, config.difficulty, config.size, number)
    strength, junk = camera.difficulty, junk_kind(config, identity, image)
    picture = window(camera, width, rng)
    if junk != "background":
        stance = _stance(rng, config.size, strength.jitter)
        if junk:
            stance = _spoil(rng, stance, config.size, junk)
        _place(picture, person_of(config.seed, identity), stance, rng)
    is_occluded = rng.random() < strength.occluders
    if junk == "two" or (is_occluded and rng.random() < 0.35):
        side = -1 if junk != "two" or stance.foot[0] > width / 2 else 1
        _bystander(picture, config, rng, side)
    elif is_occluded:
        occlude(picture, rng)
    blur = strength.blur * rng.uniform(0, 1) + (rng.uniform(4, 6) if junk == "blur" else 0)
    return develop(picture, camera, rng, blur)


def _stance(rng: np.random.Generator, size: tuple[int, int], jitter: float) -> Stance:
    """A view (front, back or a side, a little turned), a moment of the walk and a loose box."""
    height, width = size
    view = _VIEWS[int(rng.integers(len(_VIEWS)))]
    tall = height * (0.9 + 1.5 * jitter * rng.uniform(-1, 1))
    across = width / 2 + jitter * height * rng.uniform(-1, 1)
    ground = height * (0.965 + jitter * rng.uniform(-1, 1))
    return Stance(
        yaw=float(view + rng.normal(0, 0.22)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        stride=float(rng.uniform(0.15, 0.5)),
        foot=(across, ground),
        height=tall,
    )


def _spoil(rng: np.random.Generator, stance: Stance, size: tuple[int, int], junk: str) -> Stance:
    """Move the box as a bad detector does: half a body, or the space between two people."""
    height, width = size
    zoom = rng.uniform(1.7, 2.3)
    ground = height * (rng.choice([0.92, zoom + 0.1]) if junk == "part" else 0.965)
    across = width * (rng.choice([0.08, 0.92]) if junk == "two" else rng.uniform(0.1, 0.9))
    if junk == "part":
        return dataclasses.replace(stance, height=zoom * height, foot=(across, ground))
    return dataclasses.replace(stance, foot=(across, ground)) if junk == "two" else stance


def _place(picture: np.ndarray, person: Person, stance: Stance, rng: np.random.Generator) -> None:
    layer = draw_figure(person, stance, picture.shape[:2])
    light_figure(layer, stance.foot[0], 0.16 * stance.height, rng.uniform(-1, 1))
    compose(picture, layer)


def _bystander(
    picture: np.ndarray, config: PeopleConfig, rng: np.random.Generator, side: int
) -> None:
    """Another person, cut by the border of the box."""
    stance = _stance(rng, config.size, 0.04)
    across = config.size[1] * (0.5 + side * rng.uniform(0.36, 0.5))
    stance = dataclasses.replace(stance, foot=(across, stance.foot[1]))
    _place(picture, dress_person(rng), stance, rng)


def sheet(
    config: PeopleConfig,
    identities: Sequence[int] | None = None,
    columns: int | None = None,
    border: int = 2,
) -> np.ndarray:
    """A contact sheet, one identity a row and one image a column: uint8 (rows, columns, 3) RGB.

    ``identities`` are numbers as ``render`` takes them; None means the first eight.
    """
    first = config.first_identity
    if identities is None:
        identities = range(first, first + min(8, config.identities))
    columns = min(columns or config.images_per_identity, config.images_per_identity)
    height, width = config.size
    canvas = np.full(
        (len(identities) * (height + border) + border, columns * (width + border) + border, 3),
        255,
        np.uint8,
    )
    for row, identity in enumerate(identities):
        for column in range(columns):
            top, left = border + row * (height + border), border + column * (width + border)
            canvas[top : top + height, left : left + width] = render(config, identity, column)
    return canvas
