"""Which images a network was trained on, and what they may be used for, as far as it is known here.

Nothing here is legal advice: it keeps weights from being passed on under terms that their images
do not allow.
"""

import re
from pathlib import PurePath
from typing import NamedTuple, Protocol


class Header(Protocol):
    """What the header of weights says: a ``transreid_ssl.models.BackboneSpec``."""

    def remembered(self, *keys: str) -> str | None:
        """The text of the provenance under these keys, one in another."""


class Source(NamedTuple):
    """Images as a weights file names them: a labelled set, or the unlabelled "pool" in ``root``."""

    name: str
    root: str | None = None

    @property
    def generated(self) -> str | None:
        """The specification of generated people, or None for images on disk."""
        text = (self.root or "demo") if self.name == "pool" else self.name
        return text if text.partition(":")[0] == "demo" else None


class Terms(NamedTuple):
    """What something that weights are made from may be used for."""

    title: str
    text: str
    commercial: bool | None
    """Whether commercial use is allowed; None where that is not known here."""

    @property
    def is_data(self) -> bool:
        """Whether it is a data set that is known by its name."""
        return self == GENERATED or self in KNOWN.values()


IN_SAMPLE = "in-sample, and the figures may be worse for people that it has not seen"
"""What to say of a network that is judged on images that it was trained on."""
WHITENED = "whitened"
"""The key of a provenance that names the pool whose images whitened a network's features."""


def sources(spec: Header) -> list[Source]:
    """What the last training of a network saw, and its whitening; empty where no file says."""
    found = []
    name, plain = spec.remembered("settings", "data", "name"), spec.remembered("data")
    if name:
        found.append(Source(name, spec.remembered("settings", "data", "root")))
    elif plain:
        found.append(Source(plain))
    for key in ("pool", WHITENED):
        if pool := spec.remembered(key):
            found.append(Source("pool", pool))
    return list(dict.fromkeys(found))


def terms_of(spec: Header) -> list[Terms]:
    """The terms of what the last training of a network saw, or of the file that it was read from.

    A source that nothing is known of is listed as such: there is always one at least.
    """
    found = [terms for source in sources(spec) for terms in _of_source(source)]
    if not found and (file := spec.remembered("file")):
        found.append(_of_file(spec, file))
    return found or [Terms("images that the weights file does not name", _UNKNOWN, None)]


def allows_commerce(licence: str) -> bool:
    """Whether a licence is not known to exclude commercial use; those of our own names do."""
    words = licence.lower().replace("_", "-").split("-")
    return not {"nc", "research", "noncommercial"} & set(words)


def _of_source(source: Source) -> list[Terms]:
    if source.generated:
        return [GENERATED]
    if source.name not in ("pool", "folder"):
        return [KNOWN.get(name) or Terms(name, _UNKNOWN, None) for name in source.name.split("+")]
    folders = PurePath(source.root or "").parts[-3:]
    for pattern, name in _FOLDERS:
        if any(re.search(pattern, folder, re.IGNORECASE) for folder in folders):
            return [KNOWN[name]]
    return [Terms(f"images in a folder {folders[-1] if folders else ''}".strip(), _UNKNOWN, None)]


def _of_file(spec: Header, file: str) -> Terms:
    """Weights that another program wrote."""
    licence, kind = spec.remembered("license"), spec.remembered("format")
    said = (
        f"published under {licence}" if licence else "published elsewhere, under terms of its own"
    )
    title = f"the weights {file} ({kind})" if kind else f"the weights {file}"
    if licence and not allows_commerce(licence):
        return Terms(title, f"{said}: no commercial use", False)
    return Terms(title, f"{said}; what its images allow is not known here", None)


_UNKNOWN = "terms not known here"
_RESEARCH = "published for research; no licence for commercial use is known"

GENERATED = Terms("generated people", "drawn by this package; Apache-2.0, nobody is real", True)
KNOWN = {
    "market1501": Terms("Market-1501", _RESEARCH, False),
    "msmt17": Terms("MSMT17", _RESEARCH, False),
    "msmt17_train": Terms("MSMT17", _RESEARCH, False),
    "dukemtmc": Terms("DukeMTMC-reID", f"withdrawn by its authors in 2019; {_RESEARCH}", False),
    "occluded_duke": Terms("Occluded-Duke", f"images of DukeMTMC, withdrawn; {_RESEARCH}", False),
    "cuhk03_labeled": Terms("CUHK03", _RESEARCH, False),
    "cuhk03_detected": Terms("CUHK03", _RESEARCH, False),
    "luperson": Terms("LUPerson", "its authors: for research only, no commercial use", False),
    "cion": Terms(
        "CION-AL", "a signed licence: no commercial use, nor of what is made of it", False
    ),
}
"""By the names that data sets are opened with; and pools that are told by their folder's name."""
_FOLDERS = (
    (r"^cion|cion[-_]al", "cion"),
    (r"luperson|^lup([-_]|$)", "luperson"),
    (r"market.?1501", "market1501"),
    (r"msmt.?17", "msmt17"),
    (r"duke", "dukemtmc"),
    (r"cuhk.?0?\d", "cuhk03_labeled"),
)
