"""A pool of two places with bad detections and copies in it, of which the truth is known."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from transreid_ssl.data import Pool, decode, open_pool
from transreid_ssl.data.budget import label_budget, write_budget
from transreid_ssl.data.reid import LabelledImages
from transreid_ssl.errors import UserError
from transreid_ssl.files import new_folder, write_json

TARGET, OTHER, BAD, COPY = "target", "other", "bad", "copy"
KINDS = (TARGET, OTHER, BAD, COPY)


@dataclass(frozen=True)
class MixedPool:
    """Folders of images, each kind of image in one of its own.

    Attributes:
        pool: what is selected from; names begin with the kind: "other/000012.jpg".
        sample: images of the target whose people are neither in ``pool`` nor among the labels.
        labels: a list of the people that ``--data.label_list`` fine-tunes with.
    """

    pool: Pool
    sample: Pool
    labels: Path

    def kinds(self) -> np.ndarray:
        """The kind of each image of the pool, str (N,)."""
        return np.array([name.partition("/")[0] for name in self.pool.names])


def mix(
    folder: Path,
    train: LabelledImages,
    other: Pool,
    *,
    labels: float,
    sample: float,
    bad: float,
    copies: float,
    limit: int | None,
    others: float = 1,
) -> MixedPool:
    """Write a pool of the target's people and of another place's.

    Args:
        folder: where; a pool that is there already is taken as it is.
        train: labelled images of the target.
        other: crops of another place.
        labels: share of the target's people that are left to fine-tuning with labels.
        sample: share of its people that are shown without labels.
        bad: bad detections, as a share of all the rest: empty, half a person, two people.
        copies: images that are there once more, moved by a pixel and encoded anew, likewise.
        limit: images of the target at most.
        others: images of the other place for each of the target's.
    """
    given = {
        "train": train.pool.fingerprint, "other": other.fingerprint, "labels": labels,
        "sample": sample, "bad": bad, "copies": copies, "limit": limit,
        "others": others,
    }  # fmt: skip
    made = folder / "made.json"
    if not folder.exists():
        with new_folder(folder) as new:
            pool = _write_of_target(new, train, labels, sample)
            count, rng = limit or len(pool), np.random.default_rng(0)
            sound = _write_sound(new / "pool", pool, other, count, others, rng)
            _write_unsound(new / "pool", sound, bad, copies, rng)
            write_json(new / made.name, given)
    if not made.is_file() or json.loads(made.read_text(encoding="utf-8")) != given:
        raise UserError(f"{folder}: holds other images; give another --out, or remove it")
    return MixedPool(
        open_pool(folder / "pool"), open_pool(folder / "sample"), folder / "labels.txt"
    )


def _write_of_target(folder: Path, train: LabelledImages, labels: float, sample: float) -> Pool:
    """Write the list of the labelled and the sample; returns the target's part of the pool."""
    shown, pooled, labelled = _split(train, labels, sample)
    write_budget(folder / "labels.txt", train, labelled, "identity")
    images = train.subset(shown).pool
    _write(folder / "sample", [partial(images.read, index) for index in range(len(images))])
    return train.subset(pooled).pool


def _write_sound(
    folder: Path, ours: Pool, other: Pool, limit: int, others: float, rng: np.random.Generator
) -> list[Callable[[], bytes]]:
    """Write the crops of both places; returns what reads each."""
    count = min(len(ours), int(len(other) / others), limit)
    sound: list[Callable[[], bytes]] = []
    for kind, images, wanted in ((TARGET, ours, count), (OTHER, other, round(others * count))):
        chosen = _some(np.arange(len(images)), wanted, rng)
        _write(folder / kind, read := [partial(images.read, int(index)) for index in chosen])
        sound += read
    return sound


def _write_unsound(
    folder: Path, sound: list[Callable[[], bytes]], bad: float, copies: float,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Write bad detections and near-copies, made of sound crops."""
    for kind, share, make in ((BAD, bad, bad_detection), (COPY, copies, near_copy)):
        picked = _some(np.arange(len(sound)), round(share * len(sound)), rng)
        _write(folder / kind, _made(sound, picked, make))


def _split(train: LabelledImages, labels: float, sample: float) -> tuple[np.ndarray, ...]:
    """Indices of the images of those who are shown, who are in the pool, and who are labelled."""
    labelled = label_budget(train, labels, "identity")
    rest = np.setdiff1d(np.arange(len(train)), labelled)
    rest = rest[train.identities[rest] >= 0]
    people = np.random.default_rng(1).permutation(np.unique(train.identities[rest]))
    shown = people[: round(sample / (1 - labels) * len(people))]
    is_shown = np.isin(train.identities[rest], shown)
    return rest[is_shown], rest[~is_shown], labelled


def _some(indices: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.choice(indices, min(count, len(indices)), replace=False))


def _write(folder: Path, images: Sequence[Callable[[], bytes]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, read in enumerate(images):
        encoded = read()
        suffix = "jpg" if encoded.startswith(b"\xff\xd8") else "png"
        (folder / f"{index:06d}.{suffix}").write_bytes(encoded)


def _made(
    sound: Sequence[Callable[[], bytes]],
    picked: np.ndarray,
    make: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray],
) -> list[Callable[[], bytes]]:
    """Gives the images that ``make`` makes of those ``picked`` and of one more, drawn for each."""

    def read(index: int) -> bytes:
        rng = np.random.default_rng((2, index))
        chosen = sound[picked[index]], sound[rng.integers(len(sound))]
        image = make(*(decode(read()) for read in chosen), rng)
        return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()

    return [partial(read, index) for index in range(len(picked))]


def bad_detection(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A detector's mistake, uint8 (H, W, 3), made of sound crops: empty, half, or two people."""
    height, width = image.shape[:2]
    kind = rng.integers(3)
    if kind == 0:  # empty: only what is seen at the rim of a crop, where no person stands
        rim = image[:, : max(2, width // 6)]
        part = np.concatenate([rim, rim[:, ::-1]], axis=1)
    elif kind == 1:
        half = height // 2
        part = image[:half] if rng.random() < 0.5 else image[half:]
    else:
        narrow = [cv2.resize(one, (max(1, width // 2), height)) for one in (image, other)]
        part = np.concatenate(narrow, axis=1)
    return cv2.resize(part, (width, height))


def near_copy(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same crop a moment later: moved by a pixel, a little lighter or darker."""
    shift = np.float32([[1, 0, rng.integers(-1, 2)], [0, 1, rng.integers(-1, 2)]])
    moved = cv2.warpAffine(image, shift, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    return np.clip(moved * rng.uniform(0.97, 1.03), 0, 255).astype(np.uint8)
