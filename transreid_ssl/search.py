"""The images of a gallery that are most like a query: a ranked table, and a picture of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transreid_ssl import command, data, report, retrieval
from transreid_ssl.errors import UserError
from transreid_ssl.features import (
    Embedded,
    EmbeddingSettings,
    check_alike,
    device_of,
    embed_pool,
    load_model,
    read_embedded,
)
from transreid_ssl.number_types import PositiveInt
from transreid_ssl.outputs import check_outputs, is_page, keeps, page_of, picture_of
from transreid_ssl.tables import check_listing, write_listing
from transreid_ssl.words import counted

if TYPE_CHECKING:
    from transreid_ssl.models import BackboneSpec

_DRAWN = 20  # queries on the picture


@dataclass(frozen=True)
class Search(EmbeddingSettings):
    """Find the images that are most like a query, or like each of several.

    Example: ``python -m transreid_ssl.search lost.jpg /data/crops --k 20``. The table has the
    columns query, rank, image and similarity, and with calibrated weights probability. An image is
    not found for itself where query and gallery are the same pool.

    Args:
        query: An image, or any pool: a folder, a list, Parquet shards, an LMDB, or demo.
        gallery: Any pool, or a file of features that python -m transreid_ssl.embed wrote, or the
            faiss index beside it, for galleries of hundreds of thousands, of whose nearest images
            some may be missed. The weights are by default those that it was made with.
        k: Images to find for each query.
        skip_broken: Leave out images that cannot be read, instead of stopping at the first.
        out: The table to write, .csv or .parquet. Where the weights are calibrated, it has the
            probability of one person if as many pairs show one person as show two; among the
            nearest of many images that is too high.
        picture: Draw what was found, and write a page, beside the table under its name; of twenty
            queries at most.
    """

    query: str
    gallery: str
    k: PositiveInt = 10
    skip_broken: bool = False
    out: str = "outputs/search/ranking.csv"
    picture: bool = True


def rank(query: Embedded, gallery: Embedded, options: Search) -> tuple[np.ndarray, np.ndarray]:
    """Distances float32 and rows int64 (Q, K) of the nearest gallery images of each query.

    Raises:
        UserError: features of another network in the gallery, or nothing to find.
    """
    dims = query.features.shape[1], gallery.features.shape[1]
    if dims[0] != dims[1]:
        raise UserError(
            f"{options.gallery}: holds features of {dims[1]} values, and the network makes "
            f"{dims[0]}: give the --weights that they were made with"
        )
    itself = options.query == options.gallery
    if len(gallery.features) <= itself:
        raise UserError(f"{options.gallery}: no other image to find")
    found = retrieval.nearest_neighbours(
        query.features, None if itself else gallery.features,
        k=options.k, exclude_self=itself, search=gallery.search, device=device_of(options),
    )  # fmt: skip
    distances, rows = (part.numpy() for part in found)
    return distances, rows


def shown(count: int) -> np.ndarray:
    """Which of so many queries are drawn: twenty, evenly spread, or all if they are fewer."""
    return np.unique(np.linspace(0, count - 1, _DRAWN).astype(int))


def tiles(
    query: Embedded, gallery: Embedded, rows: np.ndarray, said: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """What the page shows, as ``report.write_search`` takes it; ``said`` of each place (Q, K)."""
    return [
        {
            "label": f"query {number + 1:,}",
            "query": report.tile(query.images, number),
            "found": [
                report.tile(gallery.images, row)
                | {name: float(values[number, place]) for name, values in said.items()}
                for place, row in enumerate(rows[number, :10].tolist())
            ],
        }
        for number in shown(len(rows)).tolist()
    ]


def draw(
    path: Path, query: Embedded, gallery: Embedded, distances: np.ndarray, rows: np.ndarray
) -> Path:
    """Draw what was found for the queries that are shown."""
    chosen = shown(len(rows))
    drawn = [
        report.GalleryRow(
            label=f"query {number + 1:,}",
            query=next(data.decoded(query.images, [number])),
            gallery=list(data.decoded(gallery.images, rows[number][:10])),
            correct=None,
            similarities=(1 - distances[number][:10]).tolist(),
        )
        for number in chosen.tolist()
    ]
    part = "" if len(chosen) == len(rows) else f"{len(chosen):,} of "
    title = f"{part}{_queries(rows)}, in {counted(len(gallery.names), 'image')}"
    return report.ranked_galleries(path, drawn, title, "the most alike images first")


def _queries(rows: np.ndarray) -> str:
    return counted(len(rows), "query", "queries")


def open_both(options: Search) -> tuple[Embedded, Embedded, str, "BackboneSpec"]:
    """Features of queries and gallery, the weights that made them, and what their network is.

    The places of results are looked at before anything is embedded, and so is the gallery's.
    """
    from transreid_ssl.models import find_weights

    check_listing(options.out)
    ready = data.feature_files.is_features(options.gallery)
    gallery = read_embedded(options.gallery) if ready else None
    if ready and not (options.weights or options.run):
        options = replace(options, weights=data.feature_files.about(options.gallery).get("weights"))
    weights, model = load_model(options)
    if ready:
        check_alike(options.gallery, model, options)
    shown = [picture_of(options.out)] if options.picture else []
    check_outputs(
        options.out, *shown, inputs=[options.query, options.gallery, find_weights(weights)],
        beside={page_of(options.out): is_page} if options.picture else {}, keep=keeps(options),
    )  # fmt: skip
    pool = None if ready else data.open_pool(options.gallery)
    query = embed_pool(options.query, model, options, options.skip_broken)
    if gallery is None and options.query == options.gallery:
        gallery = query
    elif pool is not None:
        gallery = embed_pool(pool, model, options, options.skip_broken)
    return query, gallery, weights, model.spec


def show(
    query: Embedded,
    gallery: Embedded,
    found: tuple[np.ndarray, np.ndarray],
    said: dict[str, np.ndarray],
    settings: dict[str, Any],
) -> None:
    """Draw what ``rank`` has found and write its page, where the gallery's images are still there.

    Args:
        said: of each place (Q, K), for the page.
        settings: those of the command, and its weights.
    """
    distances, rows = found
    if gallery.images is None:
        where = settings["gallery"]
        print(f"no picture: the images of {where} are not where they were embedded")
        return
    path = draw(picture_of(settings["out"]), query, gallery, distances, rows)
    print(f"drawn in {path}")
    report.write_or_warn(lambda: report.write_search(
        page_of(settings["out"]), f"{_queries(rows)} in {counted(len(gallery.names), 'image')}",
        tiles(query, gallery, rows, said), settings,
    ))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, embed, rank, write and draw."""
    options = command.options(Search, "python -m transreid_ssl.search", arguments)
    query, gallery, weights, spec = open_both(options)
    distances, rows = rank(query, gallery, options)
    count, k = rows.shape
    columns = {
        "query": [query.names[one] for one in range(count) for _ in range(k)],
        "rank": np.tile(np.arange(1, k + 1), count),
        "image": [gallery.names[one] for one in rows.ravel().tolist()],
        "similarity": 1 - distances.ravel(),
    }
    found = spec.calibration
    if found and found.flip == options.flip:
        columns["probability"] = found.probability(columns["similarity"])
    record = {"weights": str(weights), "query": options.query, "gallery": options.gallery}
    write_listing(options.out, columns, record)
    of_all = counted(len(gallery.names), "image")
    print(f"{options.out}: the {k} nearest of {of_all}, of {_queries(rows)}")
    if options.picture:
        said = {name: np.reshape(columns[name], rows.shape) for name in list(columns)[3:]}
        settings = asdict(options) | {"weights": str(weights)}
        show(query, gallery, (distances, rows), said, settings)


if __name__ == "__main__":
    command.run(main)
