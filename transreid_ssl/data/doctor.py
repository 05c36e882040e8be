"""Looking at the images before hours are spent on them: which are broken, how large, how sound."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from transreid_ssl.data.images import CorruptImage, decode, printable
from transreid_ssl.data.pool import Pool, SubsetPool
from transreid_ssl.data.reid import LabelledImages, ReIDProtocol, matchable, untestable
from transreid_ssl.errors import UserError
from transreid_ssl.files import write_text
from transreid_ssl.machine import num_cores
from transreid_ssl.words import counted, part_of

_CHUNK = 64


@dataclass
class Findings:
    """What decoding some images showed: their sizes, and which are broken and why."""

    total: int
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """(height, width) of each sound image that was looked at."""
    bad: dict[int, str] = field(default_factory=dict)
    """Index of each broken image, and the reason."""
    duplicates: int = 0
    """How many images looked at are the same bytes as an earlier one."""

    @property
    def checked(self) -> int:
        """How many images were looked at."""
        return len(self.sizes) + len(self.bad)

    @property
    def bad_fraction(self) -> float:
        """Share of broken images among those looked at."""
        return len(self.bad) / max(1, self.checked)


def choose(total: int, limit: int | None, seed: int = 0) -> np.ndarray:
    """All indices, or above ``limit`` a sorted random sample of that many; int64."""
    if limit is None or total <= limit:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, limit, replace=False))


def examine(
    images: Pool | LabelledImages,
    indices: Sequence[int] | np.ndarray,
    tick: Callable[[int], object] = lambda count: None,
) -> Findings:
    """Decode the images at ``indices`` in threads (decoding leaves Python's lock)."""
    findings = Findings(len(images))
    seen: set[bytes] = set()

    def look(chunk: list[int]) -> list[tuple[int, tuple[int, int] | str, bytes]]:
        return [(index, *_look(images, index)) for index in chunk]

    indices = np.asarray(indices).tolist()
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    workers = min(16, num_cores())
    with ThreadPoolExecutor(workers) as executor:
        for results in _in_order(executor, look, chunks, ahead=4 * workers):
            for index, size_or_reason, digest in results:
                if isinstance(size_or_reason, str):
                    findings.bad[index] = size_or_reason
                    continue
                findings.sizes.append(size_or_reason)
                findings.duplicates += digest in seen
                seen.add(digest)
            tick(len(results))
    return findings


def _look(images: Pool | LabelledImages, index: int) -> tuple[tuple[int, int] | str, bytes]:
    """The size of an image or why it is broken, and a digest of its bytes."""
    name = images.names[index]
    try:
        encoded = images.read(index)
        height, width, _ = decode(encoded, name).shape
    except CorruptImage as error:
        return error.reason, b""
    return (height, width), hashlib.blake2b(encoded, digest_size=12).digest()


def _in_order(
    executor: ThreadPoolExecutor, work: Callable, chunks: list, ahead: int
) -> Iterator[list]:
    """Like ``executor.map``, but never more than ``ahead`` finished chunks waiting in memory."""
    waiting: list = []
    for chunk in chunks:
        waiting.append(executor.submit(work, chunk))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def screen(
    pool: Pool, max_bad_fraction: float, limit: int = 20_000, report_path: str | Path | None = None
) -> Pool:
    """The pool without its broken images, as far as they were looked for: see ``find_broken``.

    ``describe()`` of the result says how many were looked at and left out.
    """
    return leave_out(pool, *find_broken(pool, max_bad_fraction, limit, report_path))


def leave_out(pool: Pool, broken: Sequence[int], note: str) -> Pool:
    """The pool without the images at these indices; ``note`` says why, in its description."""
    if not len(broken):
        return pool
    return SubsetPool(pool, np.setdiff1d(np.arange(len(pool)), broken), note)


def find_broken(
    pool: Pool, max_bad_fraction: float, limit: int = 20_000, report_path: str | Path | None = None
) -> tuple[list[int], str]:
    """The indices of broken images, as far as they were looked for, and how many there are.

    Up to ``limit`` images are all decoded; of a larger pool a fixed random sample of that many,
    and what that misses is replaced while training. ``report_path`` lists them with the reasons.
    Generated images are not looked at.

    Raises:
        UserError: the share of broken images is above ``max_bad_fraction``.
    """
    if pool.generated:
        return [], ""
    findings = examine(pool, choose(len(pool), limit))
    if not findings.bad:
        return [], ""
    if report_path is not None:
        write_bad(report_path, pool, findings)
    first, reason = next(iter(findings.bad.items()))
    verb = "looked at is/looked at are"
    count = f"{part_of(len(findings.bad), findings.checked, 'image', verb=verb)} broken"
    where = f", all listed in {report_path}" if report_path is not None else ""
    if findings.bad_fraction > max_bad_fraction:
        raise UserError(
            f"{pool.source}: {count} (such as {printable(pool.names[first])}: {reason}{where}), "
            f"which is more than the {max_bad_fraction:.2%} allowed; mend the pool or raise "
            "--data.max_bad_fraction"
        )
    return sorted(findings.bad), f"{count} and left out{where}"


def write_bad(path: str | Path, images: Pool | LabelledImages, findings: Findings) -> None:
    """Write the broken images, one a line: its name, a tab, the reason."""
    lines = [
        f"{printable(images.names[index])}\t{reason}\n" for index, reason in findings.bad.items()
    ]
    write_text(path, "".join(lines))


def size_table(findings: Findings) -> list[str]:
    """Lines for people: how many images fall into which range of heights, and the usual shape."""
    if not findings.sizes:
        return ["no image could be decoded"]
    heights, widths = np.array(findings.sizes).T
    edges = [0, 32, 64, 128, 192, 256, 384, 512, 100_000]
    counts = np.histogram(heights, edges)[0]
    lines = []
    for low, high, count in zip(edges, edges[1:], counts):
        if count:
            bar = "#" * max(1, round(40 * count / counts.sum()))
            upper = f"{high - 1:>4}" if high < edges[-1] else "up  "
            lines.append(f"  height {low:>4} to {upper}  {count:>10,}  {bar}")
    common, times = Counter(findings.sizes).most_common(1)[0]
    lines.append(
        f"  median {np.median(heights):.0f} x {np.median(widths):.0f} (height x width), "
        f"most often {common[0]} x {common[1]} ({times / len(heights):.0%}), "
        f"height / width {np.median(heights / widths):.2f}"
    )
    return lines


def advise(findings: Findings, part: str | None = None) -> list[str]:
    """What a person should know about these images before using them; may be empty.

    ``part`` of a labelled set tells what broken images do: see ``_of_broken``.
    """
    advice = []
    if findings.bad:
        advice.append(
            f"{findings.bad_fraction:.2%} of the images are broken: {_of_broken(part)}; "
            "'verify' lists them all"
        )
    if findings.duplicates:
        copies = "image is an exact copy of another", "images are exact copies of others"
        advice.append(f"{counted(findings.duplicates, *copies)} looked at")
    if findings.sizes:
        heights, widths = np.array(findings.sizes).T
        if np.median(heights / widths) < 1.2:
            advice.append("most images are not upright: are these crops of single persons?")
        small = float((heights < 48).mean())
        if small > 0.05:
            advice.append(f"{small:.0%} of the images are less than 48 pixels high: little to see")
    return advice


def _of_broken(part: str | None) -> str:
    """What comes of broken images."""
    if part == "train":
        return "training takes another image of the same person"
    if part in ("query", "gallery"):
        return "evaluation stops at the first, so remove or replace them"
    return (
        "pre-training replaces them up to 1% and refuses more (--data.max_bad_fraction), embedding "
        "stops at the first unless told --skip_broken true"
    )


def check_protocol(protocol: ReIDProtocol) -> list[str]:
    """What is odd about the labels of a protocol; an empty list if nothing is."""
    advice = []
    train, query, gallery = protocol.train, protocol.query, protocol.gallery
    cameras = query.cameras is not None and gallery.cameras is not None
    lost = int((~matchable(query, gallery)).sum())
    if reason := untestable(protocol):
        advice.append(f"cannot be evaluated on: {reason}")
    elif lost:
        advice.append(
            f"{part_of(lost, len(query), 'query', 'queries', verb='has/have')} no match in "
            f"{'another camera' if cameras else 'the gallery'}: left out of the scores"
        )
    shared = np.intersect1d(train.identities[train.identities >= 0], query.identities)
    if len(shared):
        known = counted(len(shared), "identity is", "identities are")
        advice.append(f"{known} in training and among the queries: a leak")
    known = train.identities[train.identities >= 0]
    single = int((np.unique(known, return_counts=True)[1] == 1).sum())
    if single:
        alone = counted(single, "training identity has", "training identities have")
        advice.append(f"{alone} one image only: it is used repeatedly")
    if not cameras:
        advice.append("no cameras: matches from the query's own camera count as found")
    return advice
