"""Which of two networks is better where nobody has labelled anything: judged by tracks."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveInt

from transreid_ssl import __version__, command, data, report, retrieval, training
from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.data.tracks.settings import Tracks
from transreid_ssl.errors import UserError
from transreid_ssl.features import EmbeddingSettings, device_of, load_model
from transreid_ssl.files import atomic_paths
from transreid_ssl.outputs import begins_with, check_outputs
from transreid_ssl.transfer import markdown_table

if TYPE_CHECKING:
    from transreid_ssl.data import Pool, ReIDProtocol
    from transreid_ssl.models import Backbone
    from transreid_ssl.retrieval import Separation, SurePairs

TITLE = "Verdict without labels"
HISTOGRAM = "colour histogram"
_BEGINNINGS = {"figures.json": '{\n  "verdict"', "table.md": TITLE, "verdict.png": "\x89PNG"}


@dataclass(frozen=True)
class Verdict(EmbeddingSettings):
    """Say which of two networks tells people apart better, by the tracks of an unlabelled pool.

    Example: ``python -m transreid_ssl.verdict before.safetensors after.safetensors --pool pool``,
    where ``python -m transreid_ssl.data tracks VIDEOS --out pool`` made the pool. One network alone
    is judged beside a colour histogram. Far frames of one track show one person, two tracks at one
    moment two people; intervals are of 95 %, over resamples of the tracks.

    Args:
        weights: One or two networks: files, folders or Hugging Face ids; by default the newest
            model.safetensors or backbone.safetensors of a run in outputs/.
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

    weights: Sequence[str] = field(
        default_factory=list,
        metadata={
            "positional": True, "nargs": "*", "metavar": "WEIGHTS",
            "help": "the network before, or alone, and the one after (newest in outputs/)",
        },
    )  # fmt: skip
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

    images = pairs.images
    same, different = (
        retrieval.similarities(features, np.searchsorted(images, kind))
        for kind in (pairs.same, pairs.different)
    )
    separation = retrieval.separate(same, different, pairs, options.resamples, options.seed)
    figures = {
        "effective rank": retrieval.effective_rank(features),
        "feature spread": float(training.feature_spread(torch.from_numpy(features))),
        "explained by cameras": retrieval.camera_share(
            features, pairs.tracks[images], cameras[images]
        ),
    }
    return Judged((same, different), separation, figures)


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


def decide(judged: dict[str, Judged]) -> tuple[str, str]:
    """Whether the second of two is better, worse or "cannot tell", by the ROC area; a sentence."""
    first, second = compared(judged)
    before, after = judged[first].separation, judged[second].separation
    low, high = after.interval(before)[:, 0]
    verdict = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    if verdict == "cannot tell":
        words = f"cannot tell whether {second} is better or worse than {first}"
    else:
        words = f"{verdict}: {second} tells people apart {verdict} than {first}"
    return verdict, (
        f"{words}: ROC area {after.values[0]:.4f} against {before.values[0]:.4f}, a difference of "
        f"{after.values[0] - before.values[0]:+.4f} (95 % interval {low:+.4f} to {high:+.4f})"
    )


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
    names = retrieval.separation.FIGURES.values()

    def listed(values: np.ndarray, interval: np.ndarray) -> dict[str, Any]:
        parts = zip(names, np.stack([values, *interval], 1).tolist())
        return {
            name: dict(
                zip(("value", "low", "high"), (x if math.isfinite(x) else None for x in row))
            )
            for name, row in parts
        }

    figures = {
        name: listed(one.separation.values, one.separation.interval()) | one.figures
        for name, one in judged.items()
    }
    apart = listed(second.values - first.values, second.interval(first))
    return {"compared": list(compared(judged)), "difference": apart, "figures": figures}


def open_tracks(options: Verdict) -> "Pool":
    """The pool.

    Raises:
        UserError: there is none, or it does not know its tracks.
    """
    if options.pool == Tracks.out and not Path(options.pool).exists():
        raise UserError(
            f"{options.pool}: no pool of tracks is there; make one of a generated clip with "
            "`python -m transreid_ssl.data tracks`, or name another with --pool"
        )
    pool = data.open_pool(options.pool, options.subset)
    if pool.tracks is None:
        raise UserError(
            f"{pool.source}: knows no tracks; give a pool that `python -m transreid_ssl.data "
            "tracks` made"
        )
    return pool


def load_models(options: Verdict) -> "dict[str, tuple[str, Backbone]]":
    """The weights file and the network of "before" and "after", or of the one "network".

    Raises:
        UserError: more than two are named, or one cannot be read.
    """
    if len(options.weights) > 2:
        raise UserError(f"{len(options.weights)} networks: name one, or two to compare")
    names = ("before", "after") if len(options.weights) == 2 else ("network",)
    chosen = {"feature": options.feature, "device": options.device, **options.embedding}
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
    ways = {
        name: lambda images, model=model: retrieval.embed_images(
            model, images, title=name, **options.embedding
        )[0].numpy()
        for name, (_, model) in models.items()
    }
    ways[HISTOGRAM] = lambda images: retrieval.colour_histogram(data.decoded(images))
    images, judged = data.SubsetPool(pool, pairs.images), {}
    for name, embed in ways.items():
        judged[name] = judge(embed(images), pairs, pool.tracks.cameras, options)
        if protocol:
            judged[name].figures.update(retrieve(embed, protocol, device_of(options)))
    return judged


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, choose pairs, embed, judge, and say, draw and write what came out."""
    options = command.options(Verdict, "python -m transreid_ssl.verdict", arguments)
    import torch

    from transreid_ssl.models import find_weights, weights_digest

    pool = open_tracks(options)
    models = load_models(options)
    read = [options.pool, options.subset, options.root]
    read += [find_weights(weights) for weights, _ in models.values()]
    out = [Path(options.out) / name for name in _BEGINNINGS]
    check_outputs(inputs=read, beside={path: _is_ours for path in out})
    networks = [f"{name}: {weights}: {model.spec}" for name, (weights, model) in models.items()]
    print(*networks, pool.describe(), sep="\n", flush=True)
    try:
        pairs = retrieval.find_sure_pairs(pool.tracks, options.max_pairs, options.seed)
    except UserError as error:
        raise UserError(f"{pool.source}: {error}") from error
    print(pairs.describe(), flush=True)
    judged = judge_all(models, pool, pairs, options)
    verdict, sentence = decide(judged)
    table = tabulate(judged)
    print(f"{table}\n{sentence}")
    software = {"transreid_ssl": __version__, "torch": torch.__version__, "numpy": np.__version__}
    figures = {
        "verdict": verdict,
        "sentence": sentence,
        "networks": {
            name: {
                "weights": str(weights),
                "digest": weights_digest(weights),
                "is": str(model.spec),
            }
            for name, (weights, model) in models.items()
        },
        "pool": {"source": pool.source, "fingerprint": pool.fingerprint},
        "pairs": pairs.record(),
        **record(judged),
        "settings": asdict(options),
        "software": software,
    }
    notes = [f"- {line}" for line in (*networks, pool.describe(), pairs.describe())]
    with atomic_paths(*out) as (json_path, table_path, picture):
        json_path.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
        lines = [f"{TITLE}: {sentence}", "", table, "", *notes]
        table_path.write_text("\n".join(lines) + "\n", "utf-8")
        sides = {name: one.similarities for name, one in judged.items()}
        report.draw_separation(picture, sides, sentence)
    print(f"written to {', '.join(map(str, out))}")


def _is_ours(path: Path) -> bool:
    return begins_with(path, _BEGINNINGS[path.name])


if __name__ == "__main__":
    command.run(main)
