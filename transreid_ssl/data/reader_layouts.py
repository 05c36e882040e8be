"""How labelled sets lie on disk: Market-1501's folders and MSMT17's lists.

Each layout ends in a function ``(name, root, pattern) -> ReIDProtocol``; ``readers.READERS`` is the
table of them. Folders by pattern are in ``reader_folder``.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transreid_ssl.data.folder import list_images
from transreid_ssl.data.index import Names
from transreid_ssl.data.lists import refuse_leaving
from transreid_ssl.data.pool import FilesPool
from transreid_ssl.data.reader_parts import find_home, integers, not_below_zero, read_labels
from transreid_ssl.data.reid import PARTS, LabelledImages, ReIDProtocol, as_called
from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.errors import UserError
from transreid_ssl.reading import read_lines
from transreid_ssl.words import counted, part_of


@dataclass(frozen=True)
class Counts:
    """The published size of a split: training identities, and images of train, query, gallery."""

    identities: int
    train: int
    query: int
    gallery: int

    def compare(self, train: LabelledImages, query: LabelledImages, gallery: LabelledImages) -> str:
        """Whether these images are as many, in words."""
        found = (train.num_identities, len(train), len(query), len(gallery))
        if found == (self.identities, self.train, self.query, self.gallery):
            return "official split"
        if found == (0, 0, self.query, self.gallery):
            return "queries and gallery of the official split"
        return (
            f"NOT the official split ({self.identities:,} identities / {self.train:,} images to "
            f"train, {self.query:,} queries and {self.gallery:,} gallery images expected)"
        )


class _Raw(NamedTuple):
    """Images of a part with labels as their set numbers them: int64 (N,) each, and as text."""

    names: list[str]
    identities: np.ndarray
    cameras: np.ndarray
    texts: tuple[list[str], list[str]]

    def labelled(
        self, folder: Path, kept: np.ndarray, identities: np.ndarray, cameras: np.ndarray
    ) -> LabelledImages:
        """The images at ``kept`` (M,), with the numbers (N,) that they have here."""
        labels = identities[kept], cameras[kept]
        called = {}
        for kind, codes, texts in zip(("identity", "camera"), labels, self.texts):
            called |= as_called(kind, codes, [texts[i] for i in kept])
        pool = FilesPool(str(folder), folder, [self.names[i] for i in kept])
        return LabelledImages(pool, *labels, called)


_NOTHING = _Raw([], np.empty(0, np.int64), np.empty(0, np.int64), ([], []))
_MARKET_PARTS = ("bounding_box_train", "query", "bounding_box_test")


@dataclass(frozen=True)
class MarketFolders:
    """The layout of Market-1501, which many sets have: three folders, labels in the names.

    ``0002_c1s1_000451_03.jpg`` is identity 2 in camera 1, and so are ``0002_c1_f0046182.jpg`` and
    ``0002_c1_1.png``. Identity -1 is junk, left out. Identity 0 of the gallery is a distractor and
    becomes -1, unless a query is of it: then people are numbered from 0, as they may be in
    training. Cameras may be numbered from 0 or 1. The folder to train on may be missing.
    """

    title: str
    usual: tuple[str, ...]
    """Where the three folders usually are, below what a user calls the root."""
    counts: Counts
    advice: str = "give the folder with them"

    def read(self, name: str, root: Path, _pattern: str) -> ReIDProtocol:
        """Open the set below ``root``."""
        home = find_home(
            root, self.usual, _MARKET_PARTS, self.title, self.advice, optional=_MARKET_PARTS[:1]
        )
        raw = [self._read_part(home / folder) for folder in _MARKET_PARTS]
        cameras = not_below_zero([part.cameras for part in raw], usual=1)
        missing = f"nothing to train on: {home / _MARKET_PARTS[0]} is not there"
        notes = [] if raw[0].names else [missing]
        found = []
        for part, folder, one, views in zip(PARTS, _MARKET_PARTS, raw, cameras):
            identities = one.identities
            distractor = part == "gallery" and 0 not in raw[1].identities
            kept = np.flatnonzero(identities >= 0)
            junk = len(one.names) - len(kept)
            zeros = int((identities == 0).sum()) if distractor else 0
            notes += [f"{part}: {counted(junk, 'junk image')} (-1) left out"] * (junk > 0)
            notes += [f"{part}: {counted(zeros, 'distractor')} (0)"] * (zeros > 0)
            labels = np.where(distractor & (identities == 0), -1, identities)
            found.append(one.labelled(home / folder, kept, labels, views))
        train, query, gallery = found
        split = self.counts.compare(train, query, gallery)
        return ReIDProtocol(
            name, train, query, gallery, split, tuple(notes), pattern=DEFAULT_PATTERN
        )

    def _read_part(self, folder: Path) -> _Raw:
        if not folder.exists():
            return _NOTHING
        names, identities, cameras = read_labels(
            folder, list_images(folder), DEFAULT_PATTERN, self.title
        )
        numbers = integers(identities, folder), integers(cameras, folder)
        return _Raw(names, *numbers, (identities, cameras))


_MSMT17 = Counts(1_041, 32_621, 11_659, 82_161)
_MSMT17_TRAIN = Counts(1_041, 30_248, 11_659, 82_161)
_MSMT17_LISTS = tuple(f"list_{part}.txt" for part in ("train", "val", "query", "gallery"))


def read_msmt17(name: str, root: Path, _pattern: str, *, validation: bool = True) -> ReIDProtocol:
    """Wei et al., CVPR 2018: ``0000/0000_000_01_0303morning_0008_0.jpg`` is camera 1.

    Training is list_train (30,248 images) with list_val (2,373 more of the same 1,041 persons), or
    list_train alone without ``validation``. Test persons are numbered from 0 again, so they are
    moved behind the training persons. The lists to train on may be missing.
    """
    usual = ("MSMT17_V1", "MSMT17_V2", "MSMT17", "msmt17")
    home = find_home(root, usual, _MSMT17_LISTS, "MSMT17", optional=_MSMT17_LISTS[:2])
    used = _MSMT17_LISTS[:2] if validation else _MSMT17_LISTS[:1]
    trains = any((home / part).exists() for part in used)
    masked = (home / "mask_test_v2").is_dir()
    folders = ("mask_train_v2", "mask_test_v2") if masked else ("train", "test")
    find_home(home, (), (*used, *folders) if trains else folders[1:], "MSMT17")
    lists = [
        [home / part for part in used] if trains else [],
        *([home / part] for part in _MSMT17_LISTS[2:]),
    ]
    places = [home / folders[0], home / folders[1], home / folders[1]]
    raw = [_read_msmt17_lists(place, paths) for place, paths in zip(places, lists)]
    train, query, gallery = _number_msmt17(places, raw)
    absent = {
        part: said
        for part, place, one in zip(PARTS, places, raw)
        if (said := _absent(place, one.names))
    }
    counts, which = (_MSMT17, "train + val lists") if validation else (_MSMT17_TRAIN, "train list")
    version = "V2 (masked faces; not comparable with V1)" if masked else "V1"
    split = f"{counts.compare(train, query, gallery)}, {which}, {version}"
    notes = () if trains else (f"nothing to train on: {home / used[0]} is not there",)
    return ReIDProtocol(name, train, query, gallery, split, notes, absent)


def _number_msmt17(places: list[Path], raw: list[_Raw]) -> list[LabelledImages]:
    """The three parts, test persons behind those to train on; an identity below 0 is nobody's."""
    cameras = not_below_zero([part.cameras for part in raw], usual=1)
    behind = 1 + int(raw[0].identities.max(initial=-1))
    found = []
    for place, part, views, first in zip(places, raw, cameras, (0, behind, behind)):
        labels = np.where(part.identities < 0, -1, part.identities + first)
        found.append(part.labelled(place, np.arange(len(labels)), labels, views))
    return found


def _read_msmt17_lists(folder: Path, lists: list[Path]) -> _Raw:
    names, identities, cameras = [], [], []
    for path in lists:
        for number, line in enumerate(read_lines(path), 1):
            if not line.strip():
                continue
            try:
                image, identity = line.strip().rsplit(maxsplit=1)
                cameras.append(str(int(os.path.basename(image).split("_")[2])))
                identities.append(str(int(identity)))
            except (ValueError, IndexError):
                raise UserError(
                    f"{path}: line {number} is not 'image identity' with the camera third in the "
                    f"image's name: {line!r}"
                ) from None
            names.append(image)
        if not names:
            raise UserError(f"{path}: the list is empty")
        refuse_leaving(Names.of(names), path, absolute=False)
    if not lists:
        return _NOTHING
    numbers = integers(identities, lists[0]), integers(cameras, lists[0])
    return _Raw(names, *numbers, (identities, cameras))


def _absent(folder: Path, names: list[str]) -> str:
    """How many of the listed images are not there, in words, or nothing.

    Raises:
        UserError: none of them is.
    """
    there = set(list_images(folder)) if names else set()
    absent = [name for name in names if name not in there and not (folder / name).exists()]
    if absent and len(absent) == len(names):
        raise UserError(f"{folder / absent[0]}: listed but not there, nor any other listed image")
    count = part_of(len(absent), len(names), "listed image", verb="is/are")
    return f"{count} not there, such as {folder / absent[0]}" if absent else ""
