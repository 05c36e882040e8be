"""How labelled sets lie on disk: Market-1501's folders, MSMT17's lists, and folders by pattern.

Each layout ends in a function ``(name, root, pattern) -> ReIDProtocol``; ``readers.READERS`` is the
table of them.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transreid_ssl.data.folder import list_images
from transreid_ssl.data.pool import FilesPool
from transreid_ssl.data.reid import PARTS, LabelledImages, ReIDProtocol, split_queries
from transreid_ssl.errors import UserError

DEFAULT_PATTERN = r"(?P<identity>-?\d+)_c(?P<camera>\d+)"


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
        return (
            f"NOT the official split ({self.identities:,} identities / {self.train:,} images to "
            f"train, {self.query:,} queries and {self.gallery:,} gallery images expected)"
        )


@dataclass(frozen=True)
class MarketFolders:
    """The layout of Market-1501, which many sets have: three folders, labels in the names.

    ``0002_c1s1_000451_03.jpg`` is identity 2 in camera 1, and so are ``0002_c1_f0046182.jpg`` and
    ``0002_c1_1.png``. Identity 0 is a distractor and becomes -1; identity -1 is junk, left out.
    """

    title: str
    usual: tuple[str, ...]
    """Where the three folders usually are, below what a user calls the root."""
    counts: Counts
    advice: str = "give the folder with them"

    def read(self, name: str, root: Path, _pattern: str) -> ReIDProtocol:
        """Open the set below ``root``."""
        folders = ("bounding_box_train", "query", "bounding_box_test")
        home = find_home(root, self.usual, folders, self.title, self.advice)
        parts = [self._read_part(home / folder) for folder in folders]
        return ReIDProtocol(name, *parts, self.counts.compare(*parts))

    def _read_part(self, folder: Path) -> LabelledImages:
        names, identities, cameras = read_labels(
            folder, list_images(folder), DEFAULT_PATTERN, self.title
        )
        labels = np.array(identities, np.int64)
        views = np.array(cameras, np.int64) - 1
        kept = np.flatnonzero(labels >= 0)
        labels = np.where(labels == 0, -1, labels)
        pool = FilesPool(str(folder), folder, [names[i] for i in kept])
        return LabelledImages(pool, labels[kept], views[kept])


_MSMT17 = Counts(1_041, 32_621, 11_659, 82_161)
_MSMT17_TRAIN = Counts(1_041, 30_248, 11_659, 82_161)


def read_msmt17(name: str, root: Path, _pattern: str, *, validation: bool = True) -> ReIDProtocol:
    """Wei et al., CVPR 2018: ``0000/0000_000_01_0303morning_0008_0.jpg`` is camera 1.

    Training is list_train (30,248 images) with list_val (2,373 more of the same 1,041 persons), or
    list_train alone without ``validation``. Test persons are numbered from 0 again, so they are
    moved behind the training persons.
    """
    lists = tuple(f"list_{part}.txt" for part in ("train", "val", "query", "gallery"))
    home = find_home(root, ("MSMT17_V1", "MSMT17_V2", "MSMT17", "msmt17"), lists, "MSMT17")
    masked = (home / "mask_train_v2").is_dir()
    folders = ("mask_train_v2", "mask_test_v2") if masked else ("train", "test")
    find_home(home, (), folders, "MSMT17")
    train_folder, test_folder = (home / folder for folder in folders)
    used = lists[:2] if validation else lists[:1]
    train = _read_msmt17_lists(train_folder, [home / part for part in used], 0)
    first = int(train.identities.max()) + 1
    query = _read_msmt17_lists(test_folder, [home / lists[2]], first)
    gallery = _read_msmt17_lists(test_folder, [home / lists[3]], first)
    counts, which = (_MSMT17, "train + val lists") if validation else (_MSMT17_TRAIN, "train list")
    split = f"{counts.compare(train, query, gallery)}, {which}, "
    split += "V2 (masked faces; not comparable with V1)" if masked else "V1"
    return ReIDProtocol(name, train, query, gallery, split)


def _read_msmt17_lists(folder: Path, lists: list[Path], first: int) -> LabelledImages:
    names, identities, cameras = [], [], []
    for path in lists:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                image, identity = line.split()
                camera = int(os.path.basename(image).split("_")[2])
                labels = int(identity) + first, camera - 1
            except (ValueError, IndexError):
                raise UserError(
                    f"{path}: line {number} is not 'image identity' with the camera third in the "
                    f"image's name: {line!r}"
                ) from None
            names.append(image)
            identities.append(labels[0])
            cameras.append(labels[1])
    if not names:
        raise UserError(f"{lists[0]}: the list is empty")
    if not (folder / names[0]).exists():
        raise UserError(f"{folder / names[0]}: listed in {lists[0].name} but not there")
    return LabelledImages(FilesPool(str(folder), folder, names), identities, cameras)


def read_folder(name: str, root: Path, pattern: str) -> ReIDProtocol:
    """Any images with identity and camera in their paths; text identities are numbered."""
    split_up = all((root / part).is_dir() for part in ("query", "gallery"))
    present = [part for part in PARTS if (root / part).is_dir()] if split_up else ["."]
    found = {
        part: read_labels(root / part, list_images(root / part), pattern, part) for part in present
    }
    identities = _encode([texts for _, texts, _ in found.values()])
    cameras = _encode([texts for _, _, texts in found.values()])
    images = {}
    for part, labels, views in zip(found, identities, cameras):
        pool = FilesPool(str(root / part), root / part, found[part][0])
        images[part] = LabelledImages(pool, np.maximum(labels, -1), views)
    if split_up:
        train = images.get("train", images["query"].subset([]))
        return ReIDProtocol(name, train, images["query"], images["gallery"], "your own split")
    whole = images["."]
    query, gallery = split_queries(whole)
    split = (
        "one folder: all of it trains, and the first image of each identity and camera is a query"
    )
    return ReIDProtocol(name, whole, whole.subset(query), whole.subset(gallery), split)


def _encode(parts: list[list[str | None]]) -> list[np.ndarray | None]:
    """Numbers as they are; any other text by its rank among all texts of all parts."""
    texts = {text for part in parts for text in part}
    if None in texts:
        return [None] * len(parts)
    try:
        numbers = {text: int(text) for text in texts}
    except ValueError:
        numbers = {text: rank for rank, text in enumerate(sorted(texts))}
    return [np.array([numbers[text] for text in part], np.int64) for part in parts]


# -- what layouts share


def find_home(
    root: Path,
    names: tuple[str, ...],
    wanted: tuple[str, ...],
    what: str,
    advice: str = "give the folder with them",
) -> Path:
    """``root`` itself or its sub-folder of a usual name, whichever holds all of ``wanted``.

    Raises:
        UserError: none does; the folder that lacks the least is named, with what it lacks.
    """
    lacking = {
        folder: [entry for entry in wanted if not (folder / entry).exists()]
        for folder in (root, *(root / name for name in names))
    }
    closest = min(lacking, key=lambda folder: len(lacking[folder]))
    if lacking[closest]:
        raise UserError(f"{closest}: not {what}: it lacks {', '.join(lacking[closest])}; {advice}")
    return closest


def read_labels(
    root: Path, names: list[str], pattern: str, what: str
) -> tuple[list[str], list[str], list[str | None]]:
    """The names again, and the identity and the camera in each, as text.

    Raises:
        UserError: no image, or one whose name does not match.
    """
    if not names:
        raise UserError(f"{root}: no image of {what} in it")
    try:
        matches = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise UserError(f"{pattern!r}: not a regular expression ({error})") from error
    wrong = [name for name, match in zip(names, matches) if match is None]
    if wrong:
        raise UserError(
            f"{root}: {len(wrong):,} of {len(names):,} image names, such as {wrong[0]!r}, do not "
            f"match {pattern!r}; move those images away or change the pattern"
        )
    groups = [match.groupdict() for match in matches if match]
    if "identity" not in groups[0]:
        raise UserError(f"{pattern!r}: lacks the group (?P<identity>…)")
    return names, [g["identity"] for g in groups], [g.get("camera") for g in groups]
