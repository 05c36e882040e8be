"""Where and by what a generated pedestrian is seen: cameras, scenes, occluders, development."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

_CAMERA, _STYLE = 11, 12  # tags that keep the random streams apart
_PANORAMA = 4  # widths of an image that the scene behind a camera is wide


@dataclass(frozen=True)
class Difficulty:
    """Strengths of what has nothing to do with the identity."""

    cast: float  # spread of the cameras' colour gains
    light: float  # spread of brightness between cameras and between images
    clutter: int  # objects in a camera's scene
    contrast: float  # of those objects and of the scene's texture, 0..255
    occluders: float  # share of the images with something in front of the person
    blur: float  # largest blur of an image, in pixels of an image 128 high
    jitter: float  # of the box around the person, as a share of the height


DIFFICULTIES = {
    "easy": Difficulty(0.0, 0.03, 0, 4, 0.0, 0.3, 0.01),
    "moderate": Difficulty(0.012, 0.1, 3, 9, 0.05, 0.6, 0.03),
    "hard": Difficulty(0.1, 0.18, 14, 45, 0.2, 1.4, 0.05),
}


@dataclass(frozen=True)
class Style:
    """What all cameras of one place share."""

    gain: tuple[float, float, float]  # of red, green and blue
    contrast: float  # around the middle grey
    wall: tuple[float, float, float]
    floor: tuple[float, float, float]
    softness: float  # blur in pixels of an image 128 high
    resolution: float  # share of the pixels that the sensor really has
    noise: float
    colour: float = 1.0  # share of it that the sensor sees


_STYLES = {
    0: Style((1.0, 1.0, 1.0), 1.0, (158, 158, 158), (134, 134, 132), 0.35, 1.0, 2.0),
    1: Style((1.16, 1.06, 0.9), 1.08, (206, 196, 172), (186, 178, 158), 0.0, 1.0, 1.0),  # sunny
    2: Style((0.7, 0.8, 0.9), 0.85, (100, 112, 118), (112, 114, 110), 0.8, 0.62, 5.0),  # a dim hall
    3: Style((0.9, 0.9, 0.9), 0.9, (88, 88, 88), (104, 104, 104), 0.5, 0.8, 4.0, 0.0),  # infra-red
}


def camera_style(number: int) -> Style:
    """Style ``number``: 0 neutral, 1 sunny, 2 a dim hall, 3 infra-red light; then random ones."""
    if number in _STYLES:
        return _STYLES[number]
    rng = np.random.default_rng([number, _STYLE])
    brightness = rng.uniform(0.6, 1.15)
    tint = 1 + rng.uniform(-0.14, 0.14, 3)
    wall, floor = rng.uniform(70, 210) * tint, rng.uniform(80, 190) * tint
    return Style(
        tuple(brightness * (1 + rng.uniform(-0.14, 0.14, 3))),
        float(rng.uniform(0.85, 1.1)),
        tuple(wall),
        tuple(floor),
        float(rng.uniform(0, 0.8)),
        float(rng.uniform(0.6, 1.0)),
        float(rng.uniform(1, 5)),
    )


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera: ``scene`` is float32 (H, 4 W, 3), a window of which is behind each person."""

    scene: np.ndarray
    gain: np.ndarray  # float32 (3,)
    style: Style
    difficulty: Difficulty


@lru_cache(maxsize=128)
def build_camera(
    seed: int, style_number: int, difficulty: str, size: tuple[int, int], number: int
) -> Camera:
    """Camera ``number`` of a place, the same whenever it is asked for."""
    style, strength = camera_style(style_number), DIFFICULTIES[difficulty]
    rng = np.random.default_rng([seed, style_number, number, _CAMERA])
    gain = np.array(style.gain) * (1 + strength.light * rng.uniform(-1, 1))
    gain = gain * (1 + strength.cast * rng.uniform(-1, 1, 3))
    scene = _scene(rng, style, strength, size)
    scene.flags.writeable = False
    return Camera(scene, gain.astype(np.float32), style, strength)


def _scene(
    rng: np.random.Generator, style: Style, strength: Difficulty, size: tuple[int, int]
) -> np.ndarray:
    """A wall, a floor with its horizon, objects, and a soft texture over all."""
    height, width = size[0], size[1] * _PANORAMA
    scene = np.empty((height, width, 3), np.float32)
    horizon = int(height * rng.uniform(0.5, 0.8))
    spread = 0.6 * strength.contrast
    scene[:horizon] = np.array(style.wall) + rng.uniform(-spread, spread)
    scene[horizon:] = np.array(style.floor) + rng.uniform(-spread, spread)
    for _ in range(strength.clutter):
        left, top = rng.uniform(0, width), rng.uniform(0, horizon)
        wide, high = rng.uniform(0.1, 0.9) * size[1], rng.uniform(0.15, 0.7) * height
        tone = rng.normal(0, strength.contrast) + rng.normal(0, strength.contrast * 0.4, 3)
        corner = (int(left + wide), int(min(top + high, height)))
        colour = np.clip(np.array(style.wall) + tone, 0, 255).tolist()
        cv2.rectangle(scene, (int(left), int(top)), corner, colour, cv2.FILLED)
    scene = cv2.GaussianBlur(scene, (0, 0), 0.012 * height)  # behind the person: out of focus
    coarse = rng.normal(0, 0.5 * strength.contrast, (8, 16, 1)).astype(np.float32)
    fine = rng.normal(0, 0.2 * strength.contrast, (height // 2, width // 2, 1)).astype(np.float32)
    for texture in (coarse, fine):
        scene += cv2.resize(texture, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(scene, 0, 255)


def window(camera: Camera, width: int, rng: np.random.Generator) -> np.ndarray:
    """A copy of a random part of the camera's scene: float32 (H, ``width``, 3)."""
    left = int(rng.integers(0, camera.scene.shape[1] - width + 1))
    return camera.scene[:, left : left + width].copy()


def compose(image: np.ndarray, layer: np.ndarray) -> None:
    """Put a figure's layer (H, W, 4) on ``image`` (H, W, 3), in place; both float32."""
    image *= cv2.cvtColor(1 - layer[..., 3], cv2.COLOR_GRAY2RGB)
    image += cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB)


def light_figure(layer: np.ndarray, middle: float, half: float, side: float) -> None:
    """Shade a figure's layer in place like an upright cylinder around column ``middle``.

    ``half`` is half its width in pixels; the light comes from ``side``, -1 left to 1 right.
    """
    place = (np.arange(layer.shape[1], dtype=np.float32) - middle) / half - 0.3 * side
    shading = np.ones((layer.shape[1], 4), np.float32)
    shading[:, :3] = (1.04 - 0.2 * np.clip(place, -1.2, 1.2) ** 2)[:, None]
    layer.reshape(len(layer), -1)[:] *= shading.ravel()  # long rows: numpy is slow on short axes


def occlude(image: np.ndarray, rng: np.random.Generator) -> None:
    """Put a pole or the front of a car before the person, in place."""
    height, width = image.shape[:2]
    tone = rng.uniform(40, 200, 3) if rng.random() < 0.4 else np.full(3, rng.uniform(40, 190))
    colour = tone.tolist()
    if rng.random() < 0.5:
        left, thick = rng.uniform(0.1, 0.8) * width, rng.uniform(0.08, 0.18) * width
        cv2.rectangle(image, (int(left), 0), (int(left + thick), height), colour, cv2.FILLED)
        cv2.line(image, (int(left), 0), (int(left), height), (tone * 0.7).tolist(), 1)
        return
    top, slope = rng.uniform(0.6, 0.8) * height, rng.uniform(-0.1, 0.1) * height
    corners = [(-2, top + slope), (width + 2, top - slope), (width + 2, height), (-2, height)]
    cv2.fillPoly(image, [np.array(corners, np.int32)], colour)
    start, end = (0, int(top + slope + 2)), (width, int(top - slope + 2))
    cv2.line(image, start, end, np.clip(tone * 1.3, 0, 255).tolist(), 2)


def develop(image: np.ndarray, camera: Camera, rng: np.random.Generator, blur: float) -> np.ndarray:
    """What the camera makes of a float32 (H, W, 3) picture: uint8 (H, W, 3) RGB.

    ``blur`` is added to the camera's own, in pixels of an image 128 high.
    """
    style, strength = camera.style, camera.difficulty
    height, width = image.shape[:2]
    brightness = 1 + 0.6 * strength.light * rng.uniform(-1, 1)
    ramp = 1 + strength.light * rng.uniform(-0.6, 0.6) * np.linspace(-1, 1, width, dtype=np.float32)
    image = 128 + (image - 128) * np.float32(style.contrast)
    light = (np.float32(brightness) * ramp)[:, None] * camera.gain  # (W, 3)
    image.reshape(height, -1)[:] *= light.ravel()
    if style.colour < 1:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = cv2.addWeighted(image, style.colour, grey, 1 - style.colour, 0)
    sigma = (style.softness + blur) * height / 128
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if style.resolution < 1:
        small = (max(2, round(width * style.resolution)), max(4, round(height * style.resolution)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    grain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(style.noise)
    image += cv2.cvtColor(grain, cv2.COLOR_GRAY2RGB)
    image += 0.5  # the conversion cuts
    return np.clip(image, 0, 255, out=image).astype(np.uint8)
