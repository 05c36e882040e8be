"""Opening labelled sets by name: the table of readers, and several sets as one.

A further set of a known layout is a line in ``READERS``; one of another layout is a function
``(name, root, pattern) -> ReIDProtocol`` as well (see ``reader_layouts``, ``reader_folder``).
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from transreid_ssl.data.people import people_protocol
from transreid_ssl.data.reader_folder import read_folder
from transreid_ssl.data.reader_layouts import Counts, MarketFolders, read_msmt17
from transreid_ssl.data.reid import ReIDProtocol, merge, untestable
from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.errors import UserError
from transreid_ssl.words import counted, nearest

Reader = Callable[[str, Path, str], ReIDProtocol]


def _cuhk03(kind: str, counts: Counts) -> MarketFolders:
    """The split of Zhong et al., CVPR 2017, in one of its two folders, "labeled" or "detected"."""
    usual = (kind, *(f"{home}/{kind}" for home in ("cuhk03-np", "CUHK03-NP", "cuhk03np", "CUHK03")))
    advice = (
        f"expected are the image folders of CUHK03-NP, such as "
        f"cuhk03-np/{kind}/bounding_box_train/0001_c1_1.png, and not the .mat files of CUHK03"
    )
    return MarketFolders(f"CUHK03-NP, {kind}", usual, counts, advice)


_MARKET_LIKE = {
    # Zheng et al., ICCV 2015
    "market1501": MarketFolders(
        "Market-1501",
        ("Market-1501-v15.09.15", "Market-1501", "Market1501", "market1501"),
        Counts(751, 12_936, 3_368, 15_913),
    ),
    # Zheng et al., ICCV 2017
    "dukemtmc": MarketFolders(
        "DukeMTMC-reID",
        ("DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID", "dukemtmc-reid", "DukeMTMC", "dukemtmc"),
        Counts(702, 16_522, 2_228, 17_661),
    ),
    # Miao et al., ICCV 2019: DukeMTMC-reID split again, so that every query is occluded
    "occluded_duke": MarketFolders(
        "Occluded-Duke",
        ("Occluded_Duke", "Occluded-Duke", "Occluded-DukeMTMC", "occluded_duke", "occluded-duke"),
        Counts(702, 15_618, 2_210, 17_661),
    ),
    "cuhk03_labeled": _cuhk03("labeled", Counts(767, 7_368, 1_400, 5_328)),
    "cuhk03_detected": _cuhk03("detected", Counts(767, 7_365, 1_400, 5_332)),
    # Sun and Zheng, CVPR 2019: rendered people; the part that domain adaptation trains on
    "personx": MarketFolders(
        "PersonX",
        ("PersonX", "personx", "personX", "subset1", "personx/subset1"),
        Counts(410, 9_840, 5_136, 30_816),
    ),
}
READERS: dict[str, Reader] = {
    **{name: layout.read for name, layout in _MARKET_LIKE.items()},
    "msmt17": read_msmt17,
    "msmt17_train": partial(read_msmt17, validation=False),
    "folder": read_folder,
}


def open_reid(
    name: str,
    root: str | Path | None = None,
    pattern: str = DEFAULT_PATTERN,
    purpose: Literal["train", "test"] | None = None,
    *,
    beside: Sequence[str] = (),
) -> ReIDProtocol:
    """Open a labelled set, to look at it or, as ``purpose`` says, to train or to evaluate on it.

    ``name`` is one of

    - ``market1501``, ``dukemtmc``, ``occluded_duke``, ``cuhk03_labeled``, ``cuhk03_detected`` (the
      new protocol, 767 people to train on) and ``personx``: Market-1501's folders; junk images
      ("-1") are left out, distractors ("0000") have identity -1;
    - ``msmt17``: V1 or V2, told apart by what is on disk; training is list_train + list_val
      (32,621 images);
    - ``msmt17_train``: the same, trained on list_train alone (30,248 images), as TransReID-SSL's
      ``mm`` does, the union with Market-1501 that its proxy for CFS was fine-tuned on;
    - names joined by ``+``, such as ``market1501+msmt17``: several sets as one, with identities
      and cameras kept apart; ``root`` is their common parent or their roots joined by a comma;
    - ``folder``: any images whose path matches ``pattern``, a regular expression with a group
      ``identity`` and perhaps a group ``camera``; in sub-folders train, query and gallery, or in
      one folder, where the first image of each identity and camera is a query;
    - ``demo`` or ``demo:key=value,…``: generated people.

    ``beside`` are other names that whoever asks takes, to be told with these where one is unknown.

    Raises:
        UserError: unknown name, no such folder, no labelled image; nothing to train on; or, for a
            test, no query with a match, or listed images that are not there.
    """
    protocol = _open(name, root, pattern, beside)
    if purpose == "train" and not len(protocol.train):
        raise UserError("; ".join([f"{name}: no image to train on", *protocol.notes]))
    if purpose == "test" and (reason := untestable(protocol)):
        raise UserError(f"{name}: {reason}")
    return protocol


def _open(name: str, root: str | Path | None, pattern: str, beside: Sequence[str]) -> ReIDProtocol:
    if name.partition(":")[0] == "demo":
        if root is not None:
            raise UserError(
                f"{root}: not read by '{name}', which is generated people; name the labelled set "
                f"that is there ({', '.join(READERS)})"
            )
        return people_protocol(name)
    names = name.split("+")
    unknown = [part for part in names if part not in READERS]
    if unknown:
        known = [*READERS, "demo", *beside]
        raise UserError(
            f"{unknown[0]}: unknown labelled set; known are {', '.join(known)}, also joined by '+'"
            + nearest(unknown[0], known)
        )
    if root is None:
        raise UserError(f"{name}: where is it? give the folder that holds it")
    roots = _split_roots(names, str(root))
    protocols = [READERS[part](part, where, pattern) for part, where in zip(names, roots)]
    return protocols[0] if len(protocols) == 1 else merge(protocols)


def _split_roots(names: list[str], root: str) -> list[Path]:
    if os.path.exists(root):
        roots = [root] * len(names)
    else:
        roots = next((parts for mark in ",+" if len(parts := root.split(mark)) > 1), [root])
    if len(roots) != len(names):
        raise UserError(
            f"{root}: {counted(len(roots), 'folder')} for {counted(len(names), 'set')} "
            f"({'+'.join(names)})"
        )
    for folder in roots:
        if not os.path.isdir(folder):
            raise UserError(
                f"{folder}: no such folder; give the one that holds {' + '.join(names)}"
            )
    return [Path(folder) for folder in roots]
