"""What generated people to draw, as a dataclass and as a one-line specification."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from transreid_ssl.data.people.scene import DIFFICULTIES
from transreid_ssl.errors import UserError
from transreid_ssl.words import nearest

TEST_OFFSET = 1_000_000  # test identities are numbered this far from the pool's
# key of the specification -> field of the configuration
_KEYS = {
    "identities": "identities",
    "images": "images_per_identity",
    "cameras": "cameras",
    "height": "height",
    "width": "width",
    "seed": "seed",
    "first": "first_identity",
    "difficulty": "difficulty",
    "style": "style",
    "junk": "junk",
    "test": "test_identities",
}


@dataclass(frozen=True)
class PeopleConfig:
    """What to draw; ``spec`` and ``from_spec`` go to and from "demo:identities=300,images=16,…"."""

    identities: int = 300
    images_per_identity: int = 16
    cameras: int = 6
    size: tuple[int, int] = (128, 64)
    """Height and width of the images."""
    seed: int = 0
    first_identity: int = 0
    """Number of the first identity: ranges that do not overlap hold different people."""
    difficulty: str = "moderate"
    """easy, moderate or hard: clutter, colour casts, light, occluders, blur, box jitter."""
    style: int = 0
    """The place: light, colour, background and sharpness of all cameras (1 sunny, 2 a dim
    hall, 3 infra-red at night, without colour)."""
    junk: float = 0.0
    """Share of the images that are bad detections."""
    test_identities: int = 64
    """How many further identities ``people_protocol`` tests on."""

    def __post_init__(self) -> None:
        height, width = self.size
        limits = [
            ("identities", self.identities, 1, TEST_OFFSET),
            ("images", self.images_per_identity, 1, 10_000),
            ("cameras", self.cameras, 1, 1_000),
            ("height", height, 16, 1_024),
            ("width", width, 8, 512),
            ("seed", self.seed, 0, 2**63 - 1),
            ("first", self.first_identity, 0, 2**62),
            ("style", self.style, 0, 2**31),
            ("junk", self.junk, 0, 1),
            ("test", self.test_identities, 1, TEST_OFFSET),
        ]
        for key, value, low, high in limits:
            if not low <= value <= high:
                raise UserError(f"demo: {key}={value} is out of range; give {low} to {high}")
        if self.difficulty not in DIFFICULTIES:
            valid = ", ".join(DIFFICULTIES)
            raise UserError(
                f"demo: difficulty={self.difficulty} is unknown; give one of {valid}"
                + nearest(self.difficulty, DIFFICULTIES)
            )

    @classmethod
    def from_spec(cls, spec: str) -> "PeopleConfig":
        """Parse "demo" or "demo:key=value,…"; what is not said keeps its default.

        Raises:
            UserError: an unknown key, a value that does not fit, or not a demo specification.
        """
        head, _, rest = spec.partition(":")
        if head != "demo":
            raise UserError(f"{spec}: not generated people; write 'demo' or 'demo:key=value,…'")
        given: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in rest.split(","))):
            key, equals, text = item.partition("=")
            if key not in _KEYS or not equals:
                valid = ", ".join(_KEYS)
                raise UserError(
                    f"{spec}: '{item}' is not understood; keys are {valid}, as key=value"
                    + nearest(key, set(_KEYS) - {key})
                )
            given[_KEYS[key]] = _parse(spec, key, text)
        default = cls.size
        size = (given.pop("height", default[0]), given.pop("width", default[1]))
        return cls(size=size, **given)

    @property
    def spec(self) -> str:
        """The specification that gives this configuration again, every key said."""
        values = {**dataclasses.asdict(self), "height": self.size[0], "width": self.size[1]}
        return "demo:" + ",".join(f"{key}={values[field]}" for key, field in _KEYS.items())


def _parse(spec: str, key: str, text: str) -> int | float | str:
    kind = {"difficulty": str, "junk": float}.get(key, int)
    try:
        value = kind(text)
    except ValueError:
        wanted = "a number" if kind is float else "a whole number"
        raise UserError(f"{spec}: {key}={text} does not fit; give {wanted}") from None
    return value
