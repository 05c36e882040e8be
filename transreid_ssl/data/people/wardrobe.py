"""Who a generated pedestrian is: body, hair, garments, shoes and bag, drawn once per identity."""

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]  # RGB, 0..255

# Weights follow streets, not rainbows: many dark and neutral garments, so that colour alone
# leaves several candidates and shape and texture have something to decide.
_CLOTH: dict[Colour, float] = {
    (28, 28, 32): 8.0,  # black
    (70, 72, 78): 4.0,  # charcoal
    (140, 140, 142): 2.0,  # grey
    (228, 226, 220): 4.0,  # white
    (30, 42, 88): 3.0,  # navy
    (52, 86, 168): 1.5,  # blue
    (128, 172, 214): 1.0,  # light blue
    (188, 38, 42): 1.5,  # red
    (112, 26, 44): 1.0,  # wine
    (42, 112, 66): 1.0,  # green
    (96, 100, 58): 1.0,  # olive
    (196, 174, 132): 1.5,  # beige
    (108, 74, 48): 1.0,  # brown
    (224, 142, 172): 0.7,  # pink
    (112, 66, 140): 0.7,  # purple
    (232, 196, 64): 0.7,  # yellow
    (226, 120, 40): 0.6,  # orange
    (40, 150, 150): 0.6,  # teal
}
_TROUSERS: dict[Colour, float] = {
    (28, 28, 32): 7.0,
    (62, 64, 70): 3.0,
    (40, 56, 100): 4.0,  # dark jeans
    (92, 122, 168): 2.0,  # washed jeans
    (150, 148, 144): 1.0,
    (184, 164, 126): 1.5,
    (94, 72, 52): 1.0,
    (216, 212, 204): 0.8,
    (84, 92, 60): 0.6,
}
_SHOES: dict[Colour, float] = {
    (24, 24, 26): 4.0,
    (232, 230, 226): 2.5,
    (104, 70, 44): 1.5,
    (120, 122, 126): 1.0,
    (176, 40, 44): 0.5,
    (48, 84, 160): 0.5,
}
_SKIN: dict[Colour, float] = {
    (240, 206, 180): 3.0,
    (222, 178, 142): 3.0,
    (188, 138, 102): 2.0,
    (136, 92, 64): 1.0,
    (90, 60, 44): 1.0,
}
_HAIR: dict[Colour, float] = {
    (26, 22, 20): 4.0,
    (66, 44, 30): 3.0,
    (116, 78, 46): 1.5,
    (204, 170, 104): 1.0,
    (160, 158, 156): 1.0,
    (140, 60, 32): 0.5,
}
_TOPS = {"t-shirt": 3.0, "shirt": 2.0, "jacket": 3.0, "coat": 1.5, "dress": 1.0}
_BOTTOMS = {"trousers": 5.0, "shorts": 1.8, "skirt": 1.2}
_TEXTURES = {"plain": 6.0, "stripes": 1.5, "checks": 1.2, "dots": 1.0, "print": 2.0}
_HAIR_STYLES = {
    "short": 4.0,
    "long": 2.5,
    "ponytail": 1.2,
    "bun": 0.8,
    "bald": 0.6,
    "cap": 1.0,
    "beanie": 0.6,
}
_BAGS = {"none": 4.0, "backpack": 3.0, "shoulder bag": 2.0}


@dataclass(frozen=True)
class Cloth:
    """A surface: ``texture`` is one of plain, stripes, checks, dots, print (a chest print)."""

    colour: Colour
    second: Colour = (0, 0, 0)
    texture: str = "plain"
    period: float = 0.05  # of the texture, as a share of the body height


@dataclass(frozen=True)
class Person:
    """All that one identity keeps from image to image; lengths are shares of the body height."""

    build: float  # width of the body: 1 is the average
    hip: float  # height of the hips
    head: float  # size of the head: 1 is the average
    skin: Colour
    hair_style: str
    hair: Colour
    hat: Colour
    top_kind: str
    top: Cloth
    inner: Colour  # shows where a jacket or coat is open
    is_open: bool
    bottom_kind: str
    bottom: Cloth
    hosiery: Colour  # legs below a skirt or dress: skin or tights
    shoes: Colour
    bag_kind: str
    bag: Colour
    bag_side: int  # -1 or 1: the hip a shoulder bag hangs at


def dress_person(rng: np.random.Generator) -> Person:
    """Draw an identity; every draw is made whatever the earlier ones gave."""
    skin = _colour(rng, _SKIN, 6)
    hosiery = skin if rng.random() < 0.6 else (34, 32, 36)
    top_kind, bottom_kind = _pick(rng, _TOPS), _pick(rng, _BOTTOMS)
    top = _cloth(rng, _CLOTH, _pick(rng, _TEXTURES))
    bottom = _cloth(rng, _TROUSERS, "plain")
    colourful = _cloth(rng, _CLOTH, str(rng.choice(["plain", "plain", "checks", "dots"])))
    return Person(
        build=float(rng.uniform(0.92, 1.4)),
        hip=float(rng.uniform(0.46, 0.51)),
        head=float(rng.uniform(0.92, 1.1)),
        skin=skin,
        hair_style=_pick(rng, _HAIR_STYLES),
        hair=_colour(rng, _HAIR, 6),
        hat=_colour(rng, _CLOTH, 8),
        top_kind=top_kind,
        top=top,
        inner=_colour(rng, _CLOTH, 8),
        is_open=bool(rng.random() < 0.5) and top_kind in ("jacket", "coat"),
        bottom_kind=bottom_kind,
        bottom=colourful if bottom_kind == "skirt" else bottom,
        hosiery=hosiery,
        shoes=_colour(rng, _SHOES, 8),
        bag_kind=_pick(rng, _BAGS),
        bag=_colour(rng, _CLOTH, 8),
        bag_side=int(rng.choice([-1, 1])),
    )


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    names = list(weights)
    share = np.array([weights[name] for name in names])
    return names[int(rng.choice(len(names), p=share / share.sum()))]


def _colour(rng: np.random.Generator, weights: dict[Colour, float], spread: float) -> Colour:
    colours = np.array(list(weights), dtype=np.float64)
    share = np.array(list(weights.values()))
    chosen = colours[int(rng.choice(len(colours), p=share / share.sum()))]
    red, green, blue = np.clip(np.rint(chosen + rng.normal(0, spread, 3)), 0, 255).astype(int)
    return int(red), int(green), int(blue)


def _cloth(rng: np.random.Generator, weights: dict[Colour, float], texture: str) -> Cloth:
    colour, second = _colour(rng, weights, 7), _colour(rng, _CLOTH, 7)
    if max(abs(a - b) for a, b in zip(colour, second, strict=True)) < 60:
        second = (236, 234, 230) if sum(colour) < 384 else (32, 32, 36)  # keep the texture visible
    return Cloth(colour, second, texture, period=float(rng.uniform(0.045, 0.085)))
