"""Reading labelled sets from disk: one reader a layout, one table of readers.

A further set is a function ``(name, root, options) -> ReIDProtocol`` and a line in ``READERS``.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transreid_ssl.data.folder import list_images
from transreid_ssl.data.pool import FilesPool
from transreid_ssl.data.reid import (
    PARTS,
    LabelledImages,
    ReIDProtocol,
    matchable,
    merge,
    split_queries,
)
from transreid_ssl.errors import UserError

DEFAULT_PATTERN = r"(?P<identity>-?\d+)_c(?P<camera>\d+)"


@dataclass(frozen=True)
class _Counts:
    """The published size of a split: training identities, and images of train, query, gallery."""

    identities: int
    train: int
    query: int
    gallery: int

    def compare(self, train: LabelledImages, query: LabelledImages, gallery: LabelledImages) -> str:
        found = (train.num_identities, len(train), len(query), len(gallery))
        if found == (self.identities, self.train, self.query, self.gallery):
            return "official split"
        return (
            f"NOT the official split ({self.identities:,} identities / {self.train:,} images to "
            f"train, {self.query:,} queries and {self.gallery:,} gallery images expected)"
        )


_MARKET1501 = _Counts(751, 12_936, 3_368, 15_913)
_MSMT17 = _Counts(1_041, 32_621, 11_659, 82_161)


def open_reid(
    name: str, root: str | Path | None = None, pattern: str = DEFAULT_PATTERN
) -> ReIDProtocol:
    """Open a labelled set.

    ``name`` is one of

    - ``market1501``: Market-1501's folders; junk images ("-1") are left out, distractors ("0000")
      have identity -1;
    - ``msmt17``: V1 or V2, told apart by what is on disk; training is list_train + list_val;
    - names joined by ``+``, such as ``market1501+msmt17``: several sets as one, with identities
      and cameras kept apart; ``root`` is their common parent or their roots joined by a comma;
    - ``folder``: any images whose path matches ``pattern``, a regular expression with a group
      ``identity`` and perhaps a group ``camera``; in sub-folders train, query and gallery, or in
      one folder, where the first image of each identity and camera is a query;
    - ``demo`` or ``demo:key=value,…``: generated people.

    Raises:
        UserError: unknown name, no such folder, no labelled image, a query set without any match.
    """
    if name.partition(":")[0] == "demo":
        from transreid_ssl.data.people import people_protocol

        return people_protocol(name)
    names = name.split("+")
    unknown = [part for part in names if part not in READERS]
    if unknown:
        known = ", ".join([*READERS, "demo"])
        raise UserError(
            f"{unknown[0]}: unknown labelled set; known are {known}, also joined by '+'"
        )
    if root is None:
        raise UserError(f"{name}: where is it? give the folder that holds it")
    roots = _split_roots(names, str(root))
    protocols = [READERS[part](part, where, pattern) for part, where in zip(names, roots)]
    for protocol in protocols:
        _check_matches(protocol)
    return protocols[0] if len(protocols) == 1 else merge(protocols)


def _split_roots(names: list[str], root: str) -> list[Path]:
    if os.path.exists(root):
        roots = [root] * len(names)
    else:
        roots = next((parts for mark in ",+" if len(parts := root.split(mark)) > 1), [root])
    if len(roots) != len(names):
        raise UserError(f"{root}: {len(roots)} folders for {len(names)} sets ({'+'.join(names)})")
    for folder in roots:
        if not os.path.isdir(folder):
            raise UserError(
                f"{folder}: no such folder; give the one that holds {' + '.join(names)}"
            )
    return [Path(folder) for folder in roots]


def _find(root: Path, names: tuple[str, ...], wanted: tuple[str, ...], what: str) -> Path:
    """``root`` itself or its sub-folder of a usual name, whichever holds all of ``wanted``."""
    for folder in (root, *(root / name for name in names)):
        if all((folder / entry).exists() for entry in wanted):
            return folder
    raise UserError(f"{root}: not {what}: it lacks {', '.join(wanted)}; give the folder with them")


def _check_matches(protocol: ReIDProtocol) -> None:
    """At least one query must be findable: the same identity, and seen by another camera."""
    query, gallery = protocol.query, protocol.gallery
    if not len(query) or not len(gallery):
        empty = "gallery" if len(query) else "query"
        raise UserError(f"{protocol.name}: no labelled image for the {empty}; {protocol.split}")
    if not matchable(query, gallery).any():
        raise UserError(
            f"{protocol.name}: no query has a match in the gallery (the same identity in another "
            "camera); check the pattern that identities and cameras are read with"
        )


def _label(
    root: Path, names: list[str], pattern: str, what: str
) -> tuple[list[str], list[str], list[str | None]]:
    """The identity and the camera in each name, as text.

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


def _read_market1501(name: str, root: Path, _pattern: str) -> ReIDProtocol:
    """Zheng et al., ICCV 2015: ``0002_c1s1_000451_03.jpg`` is identity 2 in camera 1."""
    usual = ("Market-1501-v15.09.15", "Market-1501", "Market1501", "market1501")
    folders = ("bounding_box_train", "query", "bounding_box_test")
    home = _find(root, usual, folders, "Market-1501")
    parts = []
    for folder in folders:
        names = list_images(home / folder)
        names, identities, cameras = _label(home / folder, names, DEFAULT_PATTERN, "Market-1501")
        labels = np.array(identities, np.int64)
        views = np.array(cameras, np.int64) - 1
        kept = np.flatnonzero(labels >= 0)
        labels = np.where(labels == 0, -1, labels)
        pool = FilesPool(str(home / folder), home / folder, [names[i] for i in kept])
        parts.append(LabelledImages(pool, labels[kept], views[kept]))
    return ReIDProtocol(name, *parts, _MARKET1501.compare(*parts))


def _read_msmt17(name: str, root: Path, _pattern: str) -> ReIDProtocol:
    """Wei et al., CVPR 2018: ``0000/0000_000_01_0303morning_0008_0.jpg`` is camera 1.

    Test persons are numbered from 0 again, so they are moved behind the training persons.
    """
    lists = tuple(f"list_{part}.txt" for part in ("train", "val", "query", "gallery"))
    home = _find(root, ("MSMT17_V1", "MSMT17_V2", "MSMT17", "msmt17"), lists, "MSMT17")
    masked = (home / "mask_train_v2").is_dir()
    folders = ("mask_train_v2", "mask_test_v2") if masked else ("train", "test")
    _find(home, (), folders, "MSMT17")
    train_folder, test_folder = (home / folder for folder in folders)
    train = _read_msmt17_lists(train_folder, [home / lists[0], home / lists[1]], 0)
    first = int(train.identities.max()) + 1
    query = _read_msmt17_lists(test_folder, [home / lists[2]], first)
    gallery = _read_msmt17_lists(test_folder, [home / lists[3]], first)
    split = _MSMT17.compare(train, query, gallery) + ", train + val lists, "
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


def _read_folder(name: str, root: Path, pattern: str) -> ReIDProtocol:
    """Any images with identity and camera in their paths; text identities are numbered."""
    split_up = all((root / part).is_dir() for part in ("query", "gallery"))
    present = [part for part in PARTS if (root / part).is_dir()] if split_up else ["."]
    found = {part: _label(root / part, list_images(root / part), pattern, part) for part in present}
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


Reader = Callable[[str, Path, str], ReIDProtocol]
READERS: dict[str, Reader] = {
    "market1501": _read_market1501,
    "msmt17": _read_msmt17,
    "folder": _read_folder,
}
