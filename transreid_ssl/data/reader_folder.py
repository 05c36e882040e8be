"""Labelled images of one's own: whatever carries an identity, and perhaps a camera, in its path."""

from pathlib import Path

import numpy as np

from transreid_ssl.data.folder import list_images
from transreid_ssl.data.pool import FilesPool
from transreid_ssl.data.reader_parts import compile_pattern, encode, not_below_zero, read_labels
from transreid_ssl.data.reid import PARTS, LabelledImages, ReIDProtocol, as_called, split_queries
from transreid_ssl.errors import UserError
from transreid_ssl.words import counted, part_of

_FOLDERS = {
    "train": ("train", "bounding_box_train"),
    "query": ("query",),
    "gallery": ("gallery", "bounding_box_test"),
}


def read_folder(name: str, root: Path, pattern: str) -> ReIDProtocol:
    """Any images with identity and camera in their paths; text identities are numbered.

    Identities below 0 are distractors. Cameras are used if every name has one.

    Raises:
        UserError: no image, a name that does not match, or a pattern whose camera no name has.
    """
    folders = _find_parts(root)
    found = {
        part: read_labels(folder, list_images(folder), pattern, part)
        for part, folder in folders.items()
    }
    identities = encode([texts for _, texts, _ in found.values()])
    views = [texts for _, _, texts in found.values()]
    if "camera" in compile_pattern(pattern).groupindex and not any(map(any, views)):
        example = next(names[0] for names, _, _ in found.values())
        raise UserError(
            f"{root}: the group camera of '{pattern}' is empty in every name, such as {example!r}; "
            "correct it, or leave the group out where names tell no camera"
        )
    cameras, notes = _cameras(views)
    images = {}
    for part, labels, views in zip(found, identities, cameras):
        pool = FilesPool(str(folders[part]), folders[part], found[part][0])
        called = as_called("identity", labels, found[part][1])
        if views is not None:
            called |= as_called("camera", views, found[part][2])
        images[part] = LabelledImages(pool, np.maximum(labels, -1), views, called)
        if distractors := int((labels < 0).sum()):
            where = "" if part == "whole" else f"{part}: "
            notes.append(f"{where}{counted(distractors, 'distractor')} (identities below 0)")
    if "whole" in images:
        return _split(name, images["whole"], notes, pattern)
    train = images.get("train", images["query"].subset([]))
    split = "your own split"
    return ReIDProtocol(
        name, train, images["query"], images["gallery"], split, tuple(notes), pattern=pattern
    )


def _find_parts(root: Path) -> dict[str, Path]:
    """The folder of each part, or the whole: {"whole": root}.

    Raises:
        UserError: there are Market-1501's folders, but not all that a test needs; all in one they
            would mix people to train on with those to test on.
    """
    folders = {
        part: root / name
        for part in PARTS
        for name in reversed(_FOLDERS[part])
        if (root / name).is_dir()
    }
    if {"query", "gallery"} <= folders.keys():
        return folders
    market = [folder.name for folder in folders.values() if folder.name.startswith("bounding_box")]
    if market:
        lacking = " and ".join({"query", "bounding_box_test"} - {f.name for f in folders.values()})
        raise UserError(
            f"{root}: has {' and '.join(market)} but lacks {lacking}; add it, or give "
            f"{root / market[0]} to split that alone into queries and a gallery"
        )
    return {"whole": root}


def _cameras(parts: list[list[str | None]]) -> tuple[list[np.ndarray | None], list[str]]:
    """The cameras of each part, or None for all where a name has none; and what to say of it."""
    texts = [text for part in parts for text in part]
    known = sum(text is not None for text in texts)
    if known < len(texts):
        said = part_of(len(texts) - known, len(texts), "name", verb="has/have")
        note = f"cameras are not used: {said} none"
        return [None] * len(parts), [note] * (known > 0)
    return not_below_zero(encode(parts)), []


def _split(name: str, whole: LabelledImages, notes: list[str], pattern: str) -> ReIDProtocol:
    """One folder as all parts."""
    query, gallery = split_queries(whole)
    what = "each identity" if whole.cameras is None else "each identity and camera"
    split = f"one folder: all of it trains, and the first image of {what} is a query"
    return ReIDProtocol(
        name, whole, whole.subset(query), whole.subset(gallery), split, tuple(notes),
        pattern=pattern,
    )  # fmt: skip
