"""Which of two networks is better where nobody has labelled anything: judged by tracks."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transreid_ssl import __version__, command, data, report, retrieval, training
from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.data.tracks.settings import Tracks
from transreid_ssl.errors import UserError
from transreid_ssl.features import EmbeddingSettings, device_of, load_model
from transreid_ssl.files import atomic_paths
from transreid_ssl.number_types import NonNegativeInt, PositiveInt
from transreid_ssl.origin import origin_on
from transreid_ssl.outputs import keeps
from transreid_ssl.transfer import markdown_table, outputs

if TYPE_CHECKING:
    from transreid_ssl.data import Pool, ReIDProtocol
    from transreid_ssl.models import Backbone
    from transreid_ssl.retrieval import Separation, SurePairs

TITLE = "Verdict without labels"
HISTOGRAM = "colour histogram"
_WRITTEN = {"figures.json": '{\n  "verdict"', "table.md": TITLE, "verdict.png": ""}


@dataclass(frozen=True)
class Verdict(EmbeddingSettings):
    """Say which of two networks tells people apart better, by the tracks of an unlabelled pool.

    Example: ``python -m transreid_ssl.verdict before.safetensors after.safetensors --pool pool``,
    where ``python -m transreid_ssl.data tracks VIDEOS --out pool`` made the pool. One network alone
    is judged beside a colour histogram. Far frames of one track show one person, two tracks at one
    moment two people; intervals are of 95 %, over resamples of the tracks. It is said whether a
    network was trained on the pool itself, and whether its run is finished, as far as its weights
    and the folder of the run know.

    Args:
        weights: One or two networks: files, folders (of runs, say) or Hugging Face ids; by default
            that of the newest finished run in outputs/, or of --run.
        pool: Crops whose tracks are known.
        subset: Only these of its images: a table or list, as ``transreid_ssl.cfs select`` writes.
        max_pairs: Pairs of one person, and of two, at most.
        resamples: Of the tracks, for the intervals.
        seed: Of the choice of pairs and of the resamples.
        data: Tell mAP and rank-1 on this labelled set, too, such as market1501.
        root: The folder of the labelled set.
        pattern: Of the set folder: where a path says the identity and the camera.
        out: The folder for figures.json, table.md and verdict.png.
    """

    weights: Sequence[str] = command.positional(
        "WEIGHTS", "the network before, or alone, and the one after (newest in outputs/)"
    )
    pool: str = Tracks.out
    subset: str | None = None
    max_pairs: PositiveInt = 10_000
    resamples: PositiveInt = 300
    seed: NonNegativeInt = 0
    data: str | None = None
    root: str | None = None
    pattern: str = DEFAULT_PATTERN
    out: str = "outputs/verdict"


@dataclass(frozen=True, eq=False)
class Judged:
    """What was found of one network, or of the colour histogram.

    Attributes:
        similarities: of the pairs of one person (S,) and of two (D,).
        separation: their figures, which have intervals.
        figures: the others, by their titles; None where one cannot be told.
    """

    similarities: tuple[np.ndarray, np.ndarray]
    separation: "Separation"
    figures: dict[str, float | None]


def judge(
    features: np.ndarray, pairs: "SurePairs", cameras: np.ndarray, options: Verdict
) -> Judged:
    """Judge the features (M, D) of ``pairs.images`` of a pool with ``cameras`` (N,)."""
    import torch

    sides = pairs.similarities(features)
    separation = retrieval.separate(*sides, pairs, options.resamples, options.seed)
    tracks, cameras = pairs.tracks[pairs.images], cameras[pairs.images]
    figures = {
        "effective rank": retrieval.effective_rank(features),
        "feature spread": float(training.feature_spread(torch.from_numpy(features))),
        "explained by cameras": retrieval.camera_share(features, tracks, cameras),
    }
    return Judged(sides, separation, figures)


def retrieve(
    embed: Callable[[Any], np.ndarray], protocol: "ReIDProtocol", device: str
) -> dict[str, float | None]:
    """mAP and rank-1 on a labelled set."""
    query, gallery = embed(protocol.query), embed(protocol.gallery)
    query_labels, gallery_labels = data.reid.labels(protocol)
    found = retrieval.evaluate(query, *query_labels, gallery, *gallery_labels, device=device)
    return {"mAP": found.mAP, "rank-1": found.rank(1)}


def compared(judged: dict[str, Judged]) -> tuple[str, str]:
    """The two that the verdict is on: the networks, or the histogram and the one network."""
    names = [name for name in judged if name != HISTOGRAM]
    return (names[0], names[1]) if len(names) > 1 else (HISTOGRAM, names[0])


def decide(judged: dict[str, Judged]) -> str:
    """Whether the second of two is better, worse, or that nobody can tell.

    By the ROC area and, where that cannot tell or says the opposite, by the pairs of one person
    that are found where few false ones are let in, as search and clustering let in few.
    """
    first, second = compared(judged)
    before, after = judged[first].separation, judged[second].separation
    lows, highs = after.interval(before)
    ways = (lows > 0).astype(int) - (highs < 0)
    figures, rates = list(retrieval.separation.FIGURES), retrieval.separation.RATES
    area, few = 0, len(figures) - len(rates)  # the places of both
    if first == HISTOGRAM:
        first, second = f"a {HISTOGRAM}", "the network"

    def told(place: int) -> str:
        title, difference = figures[place], after.values[place] - before.values[place]
        return (
            f"{title} {after.values[place]:.4f} against {before.values[place]:.4f}, a difference "
            f"of {difference:+.4f} (95 % interval {lows[place]:+.4f} to {highs[place]:+.4f})"
        )

    over_all, at_few = (_WORDS[int(ways[place])] for place in (area, few))
    if ways[area] and ways[area] * ways[few] >= 0:
        return f"{over_all}: {second} tells people apart {over_all} than {first}: {told(area)}"
    if ways[few]:
        return (
            f"{at_few} for search: {second} is {at_few} than {first} where few false matches are "
            f"let in, as in search and clusters; over all {over_all}: {told(few)}; {told(area)}"
        )
    return f"cannot tell whether {second} is better or worse than {first}: {told(area)}"


_WORDS = {1: "better", -1: "worse", 0: "nobody can tell"}


def tabulate(judged: dict[str, Judged]) -> str:
    """A Markdown table: figures by what was judged, and the difference of the two compared."""
    first, second = (judged[name] for name in compared(judged))
    lines = [["figure", *judged, " - ".join(reversed(compared(judged)))]]
    difference = second.separation.values - first.separation.values
    columns = [(one.separation.values, *one.separation.interval()) for one in judged.values()]
    apart = difference, *second.separation.interval(first.separation)
    for row, title in enumerate(retrieval.separation.FIGURES):
        cells = [_with_interval(*(part[row] for part in column)) for column in columns]
        lines.append([title, *cells, _with_interval(*(part[row] for part in apart), sign="+")])
    for title in second.figures:
        found = [one.figures[title] for one in judged.values()]
        ends = first.figures[title], second.figures[title]
        cells = ["–" if value is None else f"{value:.3f}" for value in found]
        lines.append([title, *cells, "–" if None in ends else f"{ends[1] - ends[0]:+.3f}"])
    return markdown_table(lines)


def _with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"


def record(judged: dict[str, Judged]) -> dict[str, Any]:
    """The figures for JSON; null for one that is not finite."""
    first, second = (judged[name].separation for name in compared(judged))

    def listed(values: np.ndarray, interval: np.ndarray) -> dict[str, Any]:
        found = {}
        for name, row in zip(retrieval.separation.FIGURES.values(), zip(values, *interval)):
            finite = (float(value) if np.isfinite(value) else None for value in row)
            found[name] = dict(zip(("value", "low", "high"), finite))
        return found

    return {
        "compared": compared(judged),
        "difference": listed(second.values - first.values, second.interval(first)),
        "figures": {
            name: listed(one.separation.values, one.separation.interval()) | one.figures
            for name, one in judged.items()
        },
    }


def load_models(options: Verdict) -> "dict[str, tuple[str, Backbone]]":
    """The weights file and the network of "before" and "after", or of the one "network".

    Raises:
        UserError: more than two are named, or one cannot be read.
    """
    if len(options.weights) > 2:
        raise UserError(f"{len(options.weights)} networks: name one, or two to compare")
    if options.weights and options.run:
        raise UserError(f"{options.weights[0]} and --run {options.run}: name networks, or a run")
    names = ("before", "after") if len(options.weights) == 2 else ("network",)
    chosen = {
        "run": options.run,
        "feature": options.feature,
        "device": options.device,
        **options.embedding,
    }
    return {
        name: load_model(EmbeddingSettings(weights=weights, **chosen))
        for name, weights in zip(names, options.weights or [None])
    }


def judge_all(
    models: "dict[str, tuple[str, Backbone]]", pool: "Pool", pairs: "SurePairs", options: Verdict
) -> dict[str, Judged]:
    """Embed the images of the pairs with every network, and judge; the colour histogram too."""
    protocol = options.data and data.open_reid(
        options.data, options.root, options.pattern, purpose="test"
    )

    def by_network(images: Any, name: str) -> np.ndarray:
        model = models[name][1]
        return retrieval.embed_images(model, images, title=name, **options.embedding)[0].numpy()

    ways = {name: partial(by_network, name=name) for name in models}
    ways[HISTOGRAM] = lambda images: retrieval.colour_histogram(data.decoded(images))
    images, judged = data.SubsetPool(pool, pairs.images), {}
    for name, embed in ways.items():
        judged[name] = judge(embed(images), pairs, pool.tracks.cameras, options)
        if protocol:
            judged[name].figures.update(retrieve(embed, protocol, device_of(options)))
    return judged


def write(
    out: Sequence[Path], judged: dict[str, Judged], sentence: str, facts: dict[str, Any]
) -> None:
    """The figures with ``facts``, the table with its notes, and the picture: all, or none."""
    with atomic_paths(*out) as (figures, table, picture):
        content = {"verdict": sentence, **record(judged), **facts}
        figures.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        told, notes = ([f"- {note}" for note in facts[name]] for name in ("origins", "notes"))
        lines = [f"{TITLE}: {sentence}", "", *told, "", tabulate(judged), "", *notes]
        table.write_text("\n".join(lines) + "\n", "utf-8")
        sides = {name: one.similarities for name, one in judged.items()}
        report.draw_separation(picture, sides, sentence)
    print(f"written to {', '.join(map(str, out))}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, choose pairs, embed, judge, and say, draw and write what came out."""
    options = command.options(Verdict, "python -m transreid_ssl.verdict", arguments)
    import torch

    from transreid_ssl.models import find_weights, weights_digest

    pool = data.open_tracks(options.pool, options.subset)
    models = load_models(options)
    weights = {name: str(path) for name, (path, _) in models.items()}
    read = [options.pool, options.subset, options.root, *map(find_weights, weights.values())]
    out = outputs(options.out, _WRITTEN, read, keep=keeps(options))
    pairs = retrieval.find_sure_pairs(pool.tracks, options.max_pairs, options.seed)
    networks = (f"{name}: {weights[name]}: {model.spec}" for name, (_, model) in models.items())
    notes = [*networks, pool.describe(), pairs.describe()]
    print(*notes, sep="\n", flush=True)
    origins = {
        name: origin_on(model.spec, weights[name], pool) for name, (_, model) in models.items()
    }
    judged = judge_all(models, pool, pairs, options)
    sentence = decide(judged)
    told = [f"{name}: {origin.text}" for name, origin in origins.items()]
    print(tabulate(judged), sentence, *told, sep="\n")
    facts = {
        "origins": told,
        "in_sample": {name: origin.in_sample for name, origin in origins.items()},
        "notes": notes,
        "pairs": {"same": len(pairs.same), "different": len(pairs.different)},
        "fingerprint": pool.fingerprint,
        "digests": {name: weights_digest(path) for name, path in weights.items()},
        "settings": asdict(options) | {"weights": weights},
        "software": {"transreid_ssl": __version__, "torch": torch.__version__},
    }
    write(out, judged, sentence, facts)


if __name__ == "__main__":
    command.run(main)
