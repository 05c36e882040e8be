"""How well a network finds people again: mAP, CMC and mINP, and a picture of ranked galleries."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transreid_ssl import __version__, command, data, report, retrieval
from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.errors import UserError
from transreid_ssl.features import EmbeddingSettings, device_of, load_model
from transreid_ssl.files import write_json
from transreid_ssl.number_types import NonNegativeInt, PositiveInt
from transreid_ssl.origin import note_in_sample, sources
from transreid_ssl.outputs import check_outputs, is_page, keeps, page_of

if TYPE_CHECKING:
    from torch import Tensor

    from transreid_ssl.data import ReIDProtocol
    from transreid_ssl.models import BackboneSpec
    from transreid_ssl.retrieval import RetrievalMetrics

_PICTURE = "outputs/evaluate/galleries.png"


@dataclass(frozen=True)
class Evaluate(EmbeddingSettings):
    """Evaluate a network on a labelled set; without options, that of the newest run on its own.

    Example: ``python -m transreid_ssl.evaluate --data demo --baselines true``, or with your own
    images ``--data market1501 --root /data/Market-1501``.

    Args:
        data: market1501, msmt17, dukemtmc or another labelled set, several joined by +, folder, or
            demo; by default what the network was fine-tuned on, or the generated people that it was
            trained on. A network of real images is never evaluated on generated people unasked.
        root: The folder of the labelled set.
        pattern: Of the set folder: where a path says the identity and the camera; by default as
            in the fine-tuning on this set, or that of names such as 0002_c1_….jpg.
        baselines: Evaluate a plain colour histogram too.
        rerank: Evaluate after re-ranking by k-reciprocal neighbours too (Zhong et al., CVPR 2017).
        rerank_k1: Nearest images that re-ranking looks at; fewer for a very small gallery.
        expand_queries: Evaluate too with each query averaged with its nearest gallery images: how
            many of them, or 0 for no query expansion; 5 is common.
        verification: Tell how many pairs of one person are accepted at rates of false alarms.
        picture: Draw ranked galleries: true, false or a path; by default of generated people only.
        json: Where to write the figures.
    """

    data: str | None = None
    root: str | None = None
    pattern: str | None = None
    baselines: bool = False
    rerank: bool = False
    rerank_k1: PositiveInt = 20
    expand_queries: NonNegativeInt = 0
    verification: bool = False
    picture: bool | str | None = None
    json: str = "outputs/evaluate/metrics.json"


def open_protocol(options: Evaluate, spec: "BackboneSpec") -> "ReIDProtocol":
    """The labelled set asked for, or that the weights remember, or their generated people.

    Raises:
        UserError: none is named, and the network was trained on other images than generated ones.
    """
    known = sources(spec)
    name, root, pattern = options.data, options.root, options.pattern
    if name is None:
        own = [source for source in known if source.name != "pool" or source.generated]
        if not own:
            trained = ", ".join(source.root or source.name for source in known)
            raise UserError(
                "which labelled set? The network was trained on "
                f"{trained or 'images that its file does not name'}, without labels: name one "
                "with --data and --root, such as --data demo, or --data folder --root CROPS with a "
                "--pattern that tells the identity, such as '(?P<identity>[0-9]+)/'"
            )
        name = own[0].generated or own[0].name
    for source in known:
        if source.name == name:  # as it was read in the training
            root = root or source.root
            pattern = pattern or spec.remembered("settings", "data", "pattern")
    return data.open_reid(name, root, pattern or DEFAULT_PATTERN, purpose="test")


def measure(
    query: Any, gallery: Any, protocol: "ReIDProtocol", options: Evaluate
) -> "dict[str, RetrievalMetrics]":
    """The metrics of the network, as asked for also re-ranked, and of what it has to beat."""
    query_labels, gallery_labels = data.reid.labels(protocol)
    device = device_of(options)
    sides = query, *query_labels, gallery, *gallery_labels
    results = {"network": retrieval.evaluate(*sides, device=device)}
    if options.rerank:
        settings = retrieval.Reranking(
            k1=options.rerank_k1, k2=min(retrieval.Reranking.k2, options.rerank_k1)
        )
        results["re-ranked"] = retrieval.evaluate(*sides, rerank=settings, device=device)
    if options.expand_queries:
        expanded = retrieval.expand_queries(query, gallery, options.expand_queries, device=device)
        results["expanded queries"] = retrieval.evaluate(expanded, *sides[1:], device=device)
    if options.baselines:
        plain = [
            retrieval.colour_histogram(data.decoded(part))
            for part in (protocol.query, protocol.gallery)
        ]
        results["colour histogram"] = retrieval.evaluate(
            plain[0], *query_labels, plain[1], *gallery_labels
        )
    return results | {"chance": retrieval.chance(*query_labels, *gallery_labels)}


def draw(
    path: str | Path,
    query: "Tensor",
    gallery: "Tensor",
    protocol: "ReIDProtocol",
    metrics: "RetrievalMetrics",
    count: int = 6,
) -> Path:
    """Draw the first ten ranks of ``count`` queries, spread evenly from the best to the worst."""
    rows = []
    for row in report.ranked_rows(query, gallery, protocol, metrics, count):
        (image,) = data.decoded(protocol.query, [row.query])
        images = list(data.decoded(protocol.gallery, row.places))
        label = f"AP {100 * row.precision:.0f} %"
        alike = [1 - distance for distance in row.distances]
        rows.append(report.GalleryRow(label, image, images, row.correct, alike))
    title = f"{protocol.name}: mAP {100 * metrics.mAP:.1f} %, rank-1 {100 * metrics.rank(1):.1f} %"
    people = "generated people, nobody is real" if is_generated(protocol) else protocol.split
    note = f"{people}; queries from the best found to the worst by average precision (AP)"
    return report.ranked_galleries(path, rows, title, note)


def is_generated(protocol: "ReIDProtocol") -> bool:
    """Whether the images show nobody real, so that a picture of them may be drawn unasked."""
    return protocol.split == "generated"


def verify(
    query: "Tensor", gallery: "Tensor", protocol: "ReIDProtocol", device: str
) -> dict[str, dict[str, float]]:
    """By the rate of false alarms: the part of a person's pairs accepted, from which cosine on."""
    query_labels, gallery_labels = data.reid.labels(protocol)
    points = retrieval.operating_points(
        query, *query_labels, gallery, *gallery_labels, device=device
    )
    return {f"{rate:g}": point._asdict() for rate, point in points.items()}


def describe_verification(found: dict[str, dict[str, float]]) -> str:
    """What ``verify`` found, as one line an operating point."""
    lines = [
        f"  {100 * point['accepted']:5.1f}% of one person's pairs accepted at false positive rate "
        f"{rate}: take cosines above {point['threshold']:.6f} for the same person"
        for rate, point in found.items()
    ]
    return "\n".join(["verification:", *lines])


def check_writable(options: Evaluate, weights: str) -> Path:
    """Look at what will be written before anything is embedded; returns where the page goes.

    Raises:
        UserError: see ``check_outputs``.
    """
    from transreid_ssl.models import find_weights

    named = [path for path in (options.json, options.picture) if isinstance(path, str)]
    page = page_of(options.json)
    check_outputs(*named, inputs=[find_weights(weights), options.root], beside={page: is_page})
    chosen = [getattr(options, name) for name in ("json", "picture") if keeps(options, name)]
    chosen += [str(page)] if keeps(options, "json") else []
    check_outputs(*(path for path in chosen if isinstance(path, str)), keep=True)
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, embed, evaluate, and say and write what came out."""
    options = command.options(Evaluate, "python -m transreid_ssl.evaluate", arguments)
    import torch

    from transreid_ssl.models import weights_digest

    weights, model = load_model(options)
    page = check_writable(options, weights)
    protocol = open_protocol(options, model.spec)
    print(f"{weights}: {model.spec}\n{protocol.describe()}", flush=True)
    origin = note_in_sample(model.spec, weights, protocol.query.pool, protocol.gallery.pool)
    query, gallery = retrieval.embed_protocol(model, protocol, **options.embedding)
    results = measure(query, gallery, protocol, options)
    print(retrieval.format_table(results))
    record = {
        "protocol": protocol.describe(),
        "network": str(model.spec),
        "in_sample": origin.in_sample,
        "origin": origin.text,
        "weights_digest": weights_digest(weights),
        "settings": asdict(options) | {"weights": str(weights)},
        "results": {name: metrics.as_dict() for name, metrics in results.items()},
        "software": {"transreid_ssl": __version__, "torch": torch.__version__},
    }
    if options.verification:
        record["verification"] = verify(query, gallery, protocol, device_of(options))
        print(describe_verification(record["verification"]))
    write_json(options.json, record)
    print(f"written to {options.json}")
    drawn = is_generated(protocol) if options.picture is None else bool(options.picture)

    def make_page() -> Path:
        found = report.of_retrieval(
            query, gallery, protocol, device_of(options), metrics=results["network"], pictures=drawn
        )
        return report.write_evaluation(page, record, found)

    report.write_or_warn(make_page)
    if drawn:
        path = options.picture if isinstance(options.picture, str) else _PICTURE
        print(f"drawn in {draw(path, query, gallery, protocol, results['network'])}")


if __name__ == "__main__":
    command.run(main)
