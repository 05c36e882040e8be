"""Drawing one generated pedestrian: a small three-dimensional puppet.

Trunk, skirts and bags are stacks of elliptic sections, limbs are thick segments with round ends,
the head is a few ellipses; parts are drawn from the far side to the near one.
"""

import math

import cv2
import numpy as np

from transreid_ssl.data.people.painter import Painter, Point, Stance
from transreid_ssl.data.people.wardrobe import Cloth, Person

_FAR = 0.78  # how much darker limbs on the far side are


def draw_figure(person: Person, stance: Stance, size: tuple[int, int]) -> np.ndarray:
    """Draw ``person`` alone: float32 (H, W, 4): colour times coverage, then coverage."""
    painter = Painter(stance, size)
    legs, arms = _leg_joints(person, stance), _arm_joints(person, stance)
    bag_is_near = painter.nearness(0, -1) > 0.1
    if person.bag_kind == "backpack" and not bag_is_near:
        _backpack(painter, person)
    for side in sorted(arms, key=lambda side: painter.nearness(side, 0)):
        if painter.nearness(side, 0) < -0.35:
            _arm(painter, person, arms[side], _FAR)
    for side in sorted(legs, key=lambda side: painter.nearness(side * 0.05, legs[side][2][2])):
        nearness = painter.nearness(side * 0.05, legs[side][2][2] * 0.3)
        _leg(painter, person, legs[side], 1 - (1 - _FAR) * min(1.0, max(0.0, -nearness / 0.05)))
    _trunk(painter, person)
    if person.bag_kind == "backpack":
        _backpack(painter, person) if bag_is_near else _straps(painter, person)
    _head(painter, person)
    if person.bag_kind == "shoulder bag":
        _shoulder_bag(painter, person)
    for side in sorted(arms, key=lambda side: painter.nearness(side, 0)):
        if painter.nearness(side, 0) >= -0.35:
            _arm(painter, person, arms[side], 0.86)
    layer = cv2.resize(painter.layer, size[::-1], interpolation=cv2.INTER_AREA)
    layer = layer.astype(np.float32)
    layer[..., 3] /= 255
    return layer


def _leg_joints(person: Person, stance: Stance) -> dict[int, list[Point]]:
    """Hip, knee and ankle of the left (1) and right (-1) leg in the walking cycle."""
    joints = {}
    for side in (1, -1):
        phase = stance.phase + (0 if side == 1 else math.pi)
        thigh = stance.stride * math.sin(phase)
        shin = thigh - stance.stride * 1.3 * max(0.0, math.cos(phase))  # a knee only bends back
        length = (person.hip - 0.03) / 2
        x = side * 0.046 * person.build
        knee = (x, person.hip - length * math.cos(thigh), length * math.sin(thigh))
        ankle = (x, knee[1] - length * math.cos(shin), knee[2] + length * math.sin(shin))
        joints[side] = [(x, person.hip, 0.0), knee, ankle]
    return joints


def _arm_joints(person: Person, stance: Stance) -> dict[int, list[Point]]:
    """Shoulder, elbow and wrist; an arm swings with the opposite leg."""
    joints = {}
    for side in (1, -1):
        phase = stance.phase + (math.pi if side == 1 else 0)
        upper = 0.8 * stance.stride * math.sin(phase)
        lower = upper + 0.25 + 0.3 * stance.stride
        x = side * 0.108 * person.build
        elbow = (x + side * 0.022, 0.8 - 0.16 * math.cos(upper), 0.16 * math.sin(upper))
        wrist = (elbow[0], elbow[1] - 0.15 * math.cos(lower), elbow[2] + 0.15 * math.sin(lower))
        joints[side] = [(x, 0.8, 0.0), elbow, wrist]
    return joints


def _between(start: Point, end: Point, share: float) -> Point:
    x, y, z = (a + share * (b - a) for a, b in zip(start, end, strict=True))
    return x, y, z


def _leg(painter: Painter, person: Person, joints: list[Point], shade: float) -> None:
    hip, knee, ankle = joints
    wide, narrow = 0.08 * person.build, 0.058 * person.build
    covered = person.bottom_kind == "trousers" and person.top_kind != "dress"
    cloth = person.bottom if covered else Cloth(person.hosiery)
    painter.limb(knee, ankle, narrow if covered else narrow * 0.8, cloth, shade)
    painter.limb(hip, knee, wide if covered else wide * 0.9, cloth, shade)
    if person.bottom_kind == "shorts" and person.top_kind != "dress":
        painter.limb(hip, _between(hip, knee, 0.8), wide * 1.1, person.bottom, shade)
    toe = (ankle[0], max(0.012, ankle[1] - 0.018), ankle[2] + 0.055)
    heel = (ankle[0], toe[1], ankle[2] - 0.012)
    painter.limb(heel, toe, 0.044, Cloth(person.shoes), shade)


def _arm(painter: Painter, person: Person, joints: list[Point], shade: float) -> None:
    shoulder, elbow, wrist = joints
    width = (0.06 if person.top_kind in ("jacket", "coat") else 0.05) * person.build
    skin = Cloth(person.skin)
    painter.ball(wrist, (0.021, 0.024), person.skin, shade)
    if person.top_kind in ("t-shirt", "dress"):
        painter.limb(elbow, wrist, width * 0.75, skin, shade)
        painter.limb(shoulder, elbow, width * 0.85, skin, shade)
        painter.limb(shoulder, _between(shoulder, elbow, 0.6), width * 1.1, person.top, shade)
    else:
        painter.limb(elbow, _between(elbow, wrist, 0.92), width * 0.9, person.top, shade)
        painter.limb(shoulder, elbow, width, person.top, shade)


def _trunk(painter: Painter, person: Person) -> None:
    """Hips or skirt, then the upper garment with its front."""
    build, hip = person.build, person.hip
    if person.top_kind != "dress":
        hips = [
            (hip + 0.06, 0.085 * build, 0.066 * build),
            (hip - 0.03, 0.086 * build, 0.066 * build),
        ]
        if person.bottom_kind == "skirt":
            hips.append((hip - 0.2, 0.115 * build, 0.09 * build))
        painter.solid(hips, person.bottom)
    hem = {"t-shirt": 0.01, "shirt": -0.02, "jacket": -0.045, "coat": -0.2, "dress": -0.23}
    flare = {"coat": 0.115, "dress": 0.135}.get(person.top_kind, 0.093)
    waist = {"dress": 0.074, "coat": 0.092, "jacket": 0.094}.get(person.top_kind, 0.086)
    end = hip + hem[person.top_kind]
    trunk = [
        (0.845, 0.045 * build, 0.04 * build),
        (0.815, 0.11 * build, 0.062 * build),
        (0.74, 0.108 * build, 0.072 * build),
        (0.6, waist * build, 0.068 * build),
        (end, flare * build, flare * 0.76 * build),
    ]
    painter.solid(trunk, person.top)
    painter.ball((0, 0.855, 0), (0.032, 0.03), person.skin, 0.85)
    if painter.cos > 0.2:
        _front(painter, person, end)


def _front(painter: Painter, person: Person, end: float) -> None:
    """What only the chest shows: a print, an open jacket, a collar."""
    depth = 0.07 * person.build * painter.cos  # flattened, so that it stays on the outline
    if person.is_open:
        half = 0.032
        corners = [
            (-half, 0.84, depth),
            (half, 0.84, depth),
            (half, end, depth),
            (-half, end, depth),
        ]
        painter.patch(corners, Cloth(person.inner))
    elif person.top_kind in ("shirt", "jacket", "coat"):
        painter.limb((0, 0.83, depth), (0, end, depth), 0.008, Cloth(person.top.colour), 0.6)
    else:
        painter.ball((0, 0.84, depth), (0.035 * painter.cos, 0.02), person.skin)
    if person.top.texture == "print" and not person.is_open:
        half = 0.055 * person.build
        corners = [
            (-half, 0.76, depth),
            (half, 0.76, depth),
            (half, 0.67, depth),
            (-half, 0.67, depth),
        ]
        painter.patch(corners, Cloth(person.top.second))


def _head(painter: Painter, person: Person) -> None:
    size = person.head
    centre = (0.0, 0.932, 0.012)
    width, height = 0.05 * size, 0.066 * size
    hair_first = painter.cos > 0.35  # seen from the front, the hair is behind the face
    if hair_first:
        _hair(painter, person, width)
    painter.ball(centre, (width, height), person.skin)
    if painter.cos > 0.1:
        for side in (-1, 1):
            painter.ball((side * 0.019, 0.935, 0.04 * size), (0.005, 0.006), (30, 26, 26))
        painter.limb((-0.01, 0.905, 0.042), (0.01, 0.905, 0.042), 0.006, Cloth((150, 70, 66)))
    elif painter.cos > -0.4:  # a profile has one eye
        painter.ball((0, 0.937, 0.04 * size), (0.005, 0.006), (30, 26, 26))
    if not hair_first:
        _hair(painter, person, width)
    _crown(painter, person, width)


def _hair(painter: Painter, person: Person, width: float) -> None:
    """The hair at the back and sides of the head."""
    if person.hair_style == "bald":
        return
    back = (0, 0.94, -0.018)
    painter.ball(back, (width * 1.04, 0.06 * person.head), person.hair)
    if person.hair_style == "long":
        sections = [
            (0.95, width * 1.15, 0.035),
            (0.85, width * 1.3, 0.03),
            (0.77, width * 1.1, 0.02),
        ]
        painter.solid(sections, Cloth(person.hair), z=-0.035)
    elif person.hair_style == "ponytail":
        painter.limb((0, 0.95, -0.06), (0, 0.84, -0.085), 0.03, Cloth(person.hair))
    elif person.hair_style == "bun":
        painter.ball((0, 0.985, -0.045), (0.03, 0.03), person.hair)


def _crown(painter: Painter, person: Person, width: float) -> None:
    """What covers the top of the head from every side: a fringe, a cap or a beanie."""
    if person.hair_style == "bald":
        return
    covered = person.hair_style in ("cap", "beanie")
    colour = Cloth(person.hat if covered else person.hair)
    top = 0.932 + 0.07 * person.head
    brim = 0.962 if not covered else 0.952
    dome = [(top + 0.006, width * 0.5, width * 0.5), (top - 0.014, width * 0.95, width * 0.95)]
    painter.solid([*dome, (brim, width * 1.08, width * 1.08)], colour, z=0.002)
    if person.hair_style == "cap":
        painter.limb((0, brim, 0.03), (0, brim - 0.004, 0.085), 0.016, colour, 0.8)


def _backpack(painter: Painter, person: Person) -> None:
    depth = -0.1 * person.build
    body = [(0.815, 0.055, 0.03), (0.79, 0.08, 0.045), (0.58, 0.086, 0.058), (0.56, 0.075, 0.045)]
    painter.solid(body, Cloth(person.bag), z=depth)
    if painter.cos < -0.2:
        corners = [
            (-0.055, 0.68, depth),
            (0.055, 0.68, depth),
            (0.055, 0.59, depth),
            (-0.055, 0.59, depth),
        ]
        painter.patch(corners, Cloth(person.bag), 0.72)


def _straps(painter: Painter, person: Person) -> None:
    if painter.cos < 0.2:
        painter.limb((0, 0.83, 0.0), (0, 0.68, 0.03), 0.02, Cloth(person.bag), 0.85)
        return
    depth = 0.05 * person.build * painter.cos
    for side in (-0.065 * person.build, 0.065 * person.build):
        painter.limb((side, 0.83, depth), (side * 1.15, 0.65, depth), 0.02, Cloth(person.bag), 0.85)


def _shoulder_bag(painter: Painter, person: Person) -> None:
    side, cloth = person.bag_side, Cloth(person.bag)
    depth = math.copysign(0.06 * person.build * abs(painter.cos), painter.cos)
    high = (-side * 0.07 * person.build, 0.83, depth)
    low = (side * 0.115 * person.build, 0.56, depth * 0.5)
    painter.limb(high, low, 0.016, cloth, 0.8)
    if painter.nearness(side, 0) > -0.6:  # otherwise the body hides it
        bag = [(0.575, 0.036, 0.07), (0.56, 0.042, 0.08), (0.46, 0.046, 0.085), (0.445, 0.04, 0.07)]
        painter.solid(bag, cloth, x=side * 0.125 * person.build)
