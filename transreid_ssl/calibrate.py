"""What the similarities of a network mean, found on labelled people or tracks, in its weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from transreid_ssl import command, data, retrieval
from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.data.tracks.settings import Tracks
from transreid_ssl.errors import UserError
from transreid_ssl.features import EmbeddingSettings, device_of, load_model, place_weights
from transreid_ssl.number_types import NonNegativeInt, OpenUnitInterval, PositiveInt
from transreid_ssl.origin import note_in_sample
from transreid_ssl.outputs import COPIES
from transreid_ssl.transfer import markdown_table
from transreid_ssl.words import counted

if TYPE_CHECKING:
    from transreid_ssl.models import Backbone, Calibration
    from transreid_ssl.retrieval import PairCounts

RATES = (1e-2, 1e-3, 1e-4)
"""Of false matches: the thresholds that are found."""
DEFAULT_OUT = COPIES[1]
TRACKS = "tracks"


@dataclass(frozen=True)
class Calibrate(EmbeddingSettings):
    """Find which similarity means which probability of one person, and keep it with the weights.

    Example: ``python -m transreid_ssl.calibrate --weights model.safetensors --data market1501
    --root /data/Market-1501``. It is found on one part of the people, by the pairs of query and
    gallery that the protocol ranks (one person in two cameras, different people in any), and what
    it promises is compared with what it does on the others. People that the network was trained on
    make promises that it does not keep.

    Args:
        data: A labelled set, of which query and gallery are taken: market1501, msmt17, dukemtmc or
            another, folder, or demo; or tracks, for a pool without labels whose tracks are known
            (far frames of one track, and two tracks at one moment).
        root: The folder of the labelled set, or the pool of tracks.
        pattern: Of the set folder: where a path says the identity and the camera.
        people: The part of the people, or of the tracks, that it is found on.
        seed: Of the choice of people.
        max_pairs: Of tracks: pairs of one person, and of two, at most.
        out: A copy of the weights with what was found in its header (outputs/calibrate).
        in_place: Write it into the weights file itself instead.
    """

    data: str = "demo"
    root: str | None = None
    pattern: str = DEFAULT_PATTERN
    people: OpenUnitInterval = 0.5
    seed: NonNegativeInt = 0
    max_pairs: PositiveInt = 200_000
    out: str | None = None
    in_place: bool = False


def count_people(
    model: "Backbone", weights: str, options: Calibrate
) -> "tuple[list[PairCounts], str]":
    """The pairs of the people to find it on, and of the others; and what they are, in words."""
    protocol = data.open_reid(options.data, options.root, options.pattern, purpose="test")
    print(protocol.describe(), flush=True)
    note_in_sample(model.spec, weights, protocol.query.pool, protocol.gallery.pool)
    sides = retrieval.embed_protocol(model, protocol, **options.embedding)
    labels = data.reid.labels(protocol)
    known = np.unique(np.concatenate([side[0] for side in labels]))
    random = np.random.default_rng([options.seed, 47])
    known = random.permutation(known[known >= 0])
    chosen = known[: round(options.people * len(known))]
    # Nobody knows who distractors are: they are dealt out one by one.
    taken = [
        np.where(ids < 0, random.random(len(ids)) < options.people, np.isin(ids, chosen))
        for ids, _ in labels
    ]
    counts = []
    for part in (taken, [~one for one in taken]):
        arguments = [
            (features[rows], ids[rows], None if cameras is None else cameras[rows])
            for features, (ids, cameras), rows in zip(sides, labels, part)
        ]
        counts.append(
            retrieval.count_pairs(*arguments[0], *arguments[1], device=device_of(options))
        )
    return counts, f"{counted(len(chosen), 'person', 'people')} of {protocol.name}"


def count_tracks(
    model: "Backbone", weights: str, options: Calibrate
) -> "tuple[list[PairCounts], str]":
    """The same of a pool of tracks."""
    pool = data.open_tracks(options.root or Tracks.out)
    print(pool.describe(), flush=True)
    note_in_sample(model.spec, weights, pool)
    tracks = pool.tracks.tracks
    random = np.random.default_rng([options.seed, 47])
    chosen = random.permutation(tracks.max() + 1)[: round(options.people * (tracks.max() + 1))]
    first, counts = np.isin(tracks, chosen), []
    for rows in (first, ~first):
        part = data.SubsetPool(pool, np.flatnonzero(rows))
        pairs = retrieval.find_sure_pairs(part.tracks, options.max_pairs, options.seed)
        print(pairs.describe(), flush=True)
        features, _ = retrieval.embed_images(
            model, data.SubsetPool(part, pairs.images), title="images", **options.embedding
        )
        counts.append(retrieval.PairCounts.of(*pairs.similarities(features.numpy())))
    return counts, f"{counted(len(chosen), 'track')} of {pool.source}"


def calibrate(
    counts: "Sequence[PairCounts]", people: str = "", flip: bool = False
) -> "Calibration":
    """A calibration found on the first of two sets of pairs, with the rates of the second.

    Raises:
        UserError: pairs of one person are no more alike than pairs of two.
    """
    from transreid_ssl.models import Calibration

    here, there = counts
    slope, intercept = retrieval.fit_probability(here)
    thresholds = retrieval.known_thresholds(here, RATES)
    measured = {rate: there.above(threshold)[1] for rate, threshold in thresholds.items()}
    pairs = f"{here.same.sum():,} pairs of one person and {here.different.sum():,} of two: {people}"
    return Calibration(slope, intercept, thresholds, measured, flip, pairs)


def describe(found: "Calibration", counts: "Sequence[PairCounts]") -> str:
    """What is promised, beside what is real on the other people, for people."""
    here, there = counts
    lines = [["false matches", "cosine above", "real", "same accepted", "real"]]
    for rate, threshold in found.thresholds.items():
        accepted = [f"{100 * part.above(threshold)[0]:.1f} %" for part in counts]
        lines.append([f"{rate:g}", f"{threshold:.7f}", f"{found.measured[rate]:.2g}", *accepted])
    unknown = [
        f"false matches at {rate:g}: not known: {here.different.sum():,} pairs of two people, and "
        f"{retrieval.calibration.FALSE_MATCHES / rate:,.0f} are wanted; it is left out"
        for rate in RATES
        if rate not in found.thresholds
    ]
    bins = [["probability", "promised", "real"]]
    for part in retrieval.reliability(there, found.slope, found.intercept, np.linspace(0, 1, 6)):
        bounds = f"{part.low:.1f} to {part.high:.1f}"
        known = [f"{x:.3f}" if np.isfinite(x) else "no pairs" for x in (part.promised, part.real)]
        bins.append([bounds, *known])
    tables = [markdown_table(table) for table in (lines, bins) if len(table) > 1]
    other = f"real: {there.same.sum():,} pairs of one person and {there.different.sum():,} of two"
    return "\n".join([f"found on {found.pairs}", f"{other}, of the others", *tables, *unknown])


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, embed, find, compare, and write the weights."""
    options = command.options(Calibrate, "python -m transreid_ssl.calibrate", arguments)
    from transreid_ssl.models import save_backbone

    weights, model = load_model(options)
    if options.feature is not None:
        raise UserError("--feature: the weights can be calibrated as they are meant only: leave it")
    out = place_weights(options, weights, DEFAULT_OUT, inputs=[options.root])
    print(f"{weights}: {model.spec}", flush=True)
    count = count_tracks if options.data == TRACKS else count_people
    counts, people = count(model, weights, options)
    found = calibrate(counts, people, options.flip)
    print(describe(found, counts))
    save_backbone(out, model, replace(model.spec, calibration=found))
    print(f"written to {out}")


if __name__ == "__main__":
    command.run(main)
