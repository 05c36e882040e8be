"""Training on a part of the labels: LUPerson's small-scale and few-shot protocols (2012.03753).

Small-scale keeps a share of the identities with all of their images, few-shot a share of the images
of each identity and one at least. Both put all that can be kept into one random order and take its
beginning, so of two budgets of one seed the smaller is part of the larger. Sizes are the paper's
(share x count, rounded down); the draws are not: those are in the authors' lists, which
``read_budget`` reads. Their few-shot lists hold about as many images of each identity (at 10 % of
Market-1501 one or two, at 70 % up to 15), and not the same share.
"""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np

from transreid_ssl.data.index import Names
from transreid_ssl.data.reid import LabelledImages
from transreid_ssl.data.subset import base_names
from transreid_ssl.errors import UserError
from transreid_ssl.files import write_text
from transreid_ssl.reading import read_lines
from transreid_ssl.words import part_of

# The authors renamed MSMT17's 0000_036_12_0303morning_0001_0.jpg to 0000_c12_0036.jpg.
_MSMT17_NAME = re.compile(r"(\d{4})_(\d{3})_(\d{2})_\d{4}[a-z]+_")


# -- drawing a budget


def label_budget(images: LabelledImages, share: float, by: str, seed: int = 0) -> np.ndarray:
    """Sorted indices int64 (M,) of the images to keep; never one of identity -1.

    With I identities and N images of them, ``by="identity"`` keeps floor(share * I) identities and
    ``by="image"`` max(I, floor(share * N)) images. The draw depends on the order of the images.

    Raises:
        UserError: a share outside (0, 1], another ``by``, or no labelled image.
    """
    if not 0 < share <= 1:
        raise UserError(f"a label budget of {share}: give a share above 0 and up to 1")
    if by not in ("identity", "image"):
        raise UserError(f"a label budget by {by!r}: give identity or image")
    labelled = np.flatnonzero(images.identities >= 0)
    if not len(labelled):
        raise UserError(f"{images.pool.source}: no image of it has an identity to choose from")
    people, person = np.unique(images.identities[labelled], return_inverse=True)
    rng = np.random.default_rng(seed)
    if by == "identity":
        chosen = rng.permutation(len(people))[: max(1, _round_down(share, len(people)))]
        return labelled[np.isin(person, chosen)]
    order = _image_order(person, rng)
    return np.sort(labelled[order[: max(len(people), _round_down(share, len(labelled)))]])


def _round_down(share: float, count: int) -> int:
    """The whole part of share * count, with the share as it is written: 0.29 of 100 is 29."""
    return int(Fraction(str(share)) * count)


def _image_order(person: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order (N,) whose every beginning is shared out fairly among ``person`` (N,).

    One image of each comes first; then an identity with n images has its j-th (from 0) when a share
    of (j + 1/2) / n is reached: rounding to the nearest, with exact totals (Webster's method). The
    method of largest remainders would not nest: there a larger total can take an image away.
    """
    shuffled = rng.permutation(len(person))
    grouped = shuffled[np.argsort(person[shuffled], kind="stable")]
    counts = np.bincount(person)
    place = np.arange(len(person)) - np.repeat(np.cumsum(counts) - counts, counts)
    turn = np.empty(len(person))
    turn[grouped] = np.where(place == 0, 0, (place + 0.5) / np.repeat(counts, counts))
    return shuffled[np.argsort(turn[shuffled], kind="stable")]


# -- the authors' lists: used_ids_0.10.txt, used_ims_0.10.txt


def write_budget(path: str | Path, images: LabelledImages, indices: np.ndarray, by: str) -> None:
    """Write the budget ``indices`` (M,) as the authors do.

    ``by="identity"``: a line an identity, as the set numbers it. ``by="image"``: "name; label;
    camera" without folders, labels counted from 0 among the identities kept; camera -1: not known.

    Raises:
        UserError: by image, two images of one name, or the file cannot be written.
    """
    people, labels = np.unique(images.identities[indices], return_inverse=True)
    if by == "identity":
        lines = [f"{identity}\n" for identity in people]
    else:
        _by_base_name(images)
        cameras = np.full(len(images), -1) if images.cameras is None else images.cameras
        lines = [
            f"{images.names[int(index)].rpartition('/')[2]}; {label}; {cameras[index]}\n"
            for index, label in zip(indices, labels)
        ]
    write_text(path, "".join(lines))


def read_budget(path: str | Path, images: LabelledImages) -> np.ndarray:
    """Sorted indices int64 (M,) of the images that a list of either format names.

    The first line tells the format. Identities are the set's own numbers: those in the file names
    of Market-1501's layout, from 0 in MSMT17. Images are found by name, without folder or
    extension, and MSMT17's also by the authors' names for them; label and camera are not looked at.
    Spaces, empty lines and repetitions do not matter.

    Raises:
        UserError: the file cannot be read, is empty, has a line of another format, names what the
            set does not hold, or two images of the set have one name.
    """
    entries = _read_lines(path)
    if not entries:
        raise UserError(f"{path}: the list of labels is empty")
    if ";" in entries[0][1]:
        return _find_images(path, [_image_of(path, *entry) for entry in entries], images)
    wanted = np.unique([_identity_of(path, *entry) for entry in entries])
    unknown = wanted[~np.isin(wanted, images.identities[images.identities >= 0])]
    if len(unknown):
        raise _foreign(path, ("identity", "identities"), len(unknown), len(wanted), str(unknown[0]))
    return np.flatnonzero(np.isin(images.identities, wanted))


def _read_lines(path: str | Path) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers from 1."""
    lines = enumerate(read_lines(path), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _identity_of(path: str | Path, number: int, line: str) -> int:
    if not re.fullmatch(r"\d{1,18}", line):
        raise UserError(
            f"{path}: line {number} is not an identity: {line!r}; give a whole number a line, or "
            "lines of 'name; label; camera'"
        )
    return int(line)


def _image_of(path: str | Path, number: int, line: str) -> str:
    match = re.fullmatch(r"(.*\S)\s*;\s*-?\d+\s*;\s*-?\d+", line)
    if not match:
        raise UserError(f"{path}: line {number} is not 'name; label; camera': {line!r}")
    return match[1]


def _find_images(path: str | Path, names: list[str], images: LabelledImages) -> np.ndarray:
    known = _by_base_name(images)
    known |= {
        f"{match[1]}_c{int(match[3])}_{match[2].zfill(4)}": index
        for base, index in known.items()
        if (match := _MSMT17_NAME.match(base))
    }
    wanted = dict(zip(base_names(Names.of(names)), names))
    unknown = [name for base, name in wanted.items() if base not in known]
    if unknown:
        raise _foreign(path, ("image", "images"), len(unknown), len(wanted), repr(unknown[0]))
    return np.unique([known[base] for base in wanted])


def _by_base_name(images: LabelledImages) -> dict[str, int]:
    """The index of each image by its name without folders and extension."""
    known: dict[str, int] = {}
    for index, base in enumerate(base_names(images.pool.arrow_names())):
        if known.setdefault(base, index) != index:
            raise UserError(
                f"{images.pool.source}: {images.names[known[base]]} and {images.names[index]} have "
                "one base name, so no list of images can tell them apart; use identities"
            )
    return known


def _foreign(
    path: str | Path, what: tuple[str, str], unknown: int, total: int, example: str
) -> UserError:
    return UserError(
        f"{path}: {part_of(unknown, total, *what, its='its')} (such as {example}) "
        f"{'is' if unknown == 1 else 'are'} not in this set: "
        "give the list of the set that you train on"
    )


# -- the two as fine-tuning asks for them


def budgeted(
    images: LabelledImages,
    share: float | None = None,
    by: str = "identity",
    seed: int = 0,
    list_path: str | Path | None = None,
    repeat: float = 1.0,
) -> LabelledImages:
    """The images to train on: a share of ``images``, those of a list, or all of them as they are.

    ``repeat`` lengthens the epochs of a small budget, see ``repeated``.

    Raises:
        UserError: both a share and a list, and whatever ``label_budget`` and ``read_budget`` do.
    """
    if list_path is not None:
        if share not in (None, 1):
            raise UserError(f"{list_path}: a list of labels and a budget of {share}; give one")
        indices = read_budget(list_path, images)
    elif share not in (None, 1):
        indices = label_budget(images, share, by, seed)
    elif repeat != 1:
        indices = np.arange(len(images))
    else:
        return images
    return images.subset(repeated(indices, repeat))


def repeated(indices: np.ndarray, times: float) -> np.ndarray:
    """Indices int64 (M,) in their order, each ``times`` times: LUPerson's ``repeat_ratio``.

    Of 2.3 the whole part repeats all M, and the rest the first floor(0.3 M) once more. The authors
    repeat few-shot lists only, and find 2 or 3 enough. Their epoch has floor(images / batch size)
    steps and grows with each repetition; here it is a pass over groups of K images, at least one a
    person, and grows where a person's images and their copies make two groups or more.
    """
    whole = int(times)
    rest = indices[: int((times - whole) * len(indices))]
    return np.sort(np.concatenate([np.tile(indices, whole), rest]))


def describe_budget(
    images: LabelledImages,
    kept: LabelledImages,
    share: float | None = None,
    by: str = "identity",
    list_path: str | Path | None = None,
    repeat: float = 1.0,
) -> str:
    """One line for people: what ``budgeted`` made of ``images``."""
    if list_path is not None:
        what = f"labels of {list_path}"
    elif share in (None, 1):
        what = "all labels"
    else:
        what = f"{100 * share:.6g} % of the labels by {by}"
    identities = part_of(kept.num_identities, images.num_identities, "identity", "identities")
    count = part_of(len(set(kept.names)), len(images), "image")
    counted = "" if repeat == 1 else f", each counted {repeat:g} times"
    return f"{what}: {identities}, {count}{counted}"
