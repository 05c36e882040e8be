"""Which images of a pool show one person, as far as clusters tell: a table, a sheet and a page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transreid_ssl import command, data, report, retrieval
from transreid_ssl.errors import check_ranges
from transreid_ssl.features import (
    Embedded,
    EmbeddingSettings,
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
    from transreid_ssl.data import LabelledImages, Pool

_DRAWN, _OF_CLUSTER = 12, 10  # clusters on the sheet, and images of each beside its middle one
_LARGE = 0.3
"""Share of the images in one cluster above which people have probably come together."""
_TOO_MUCH = 0.5
"""Share of the images in no cluster that no pool of many people should have."""


@dataclass(frozen=True)
class Cluster(EmbeddingSettings):
    """Group the images of a pool by who is on them: DBSCAN on distances of reciprocal neighbours.

    Example: ``python -m transreid_ssl.cluster /data/crops``. The table has the columns image and
    cluster, which is -1 for an image of none; the largest cluster is number 0. The page, beside the
    table under its name as the picture is, tells the sizes and shows the largest clusters.

    Args:
        pool: Any pool: a folder, a list, Parquet shards, an LMDB, or demo; or a file of features
            that python -m transreid_ssl.embed wrote, or the faiss index beside it, for pools of
            hundreds of thousands.
        eps: Images this close are neighbours, in Jaccard distances of 0 to 1; by default that
            which makes the most clusters, of 19 from the distances of all images to their
            min_samples-th neighbours.
        reach: Images of no cluster join that of the nearest image in one, if it is this close; by
            default a third of the way from the eps that was chosen to 1, or the eps that was given.
        min_samples: Neighbours that an image needs to be in the midst of a cluster, with itself.
        k1: Size of the neighbourhoods that are compared, the image itself being one.
        k2: Nearest images that these are averaged over.
        skip_broken: Leave out images that cannot be read, instead of stopping at the first.
        out: The table to write, .parquet or .csv.
        picture: Draw the largest clusters, beside the table, and write a page of all.
    """

    pool: str
    eps: float | None = None
    reach: float | None = None
    min_samples: PositiveInt = 4
    k1: PositiveInt = 30
    k2: PositiveInt = 6
    skip_broken: bool = False
    out: str = "outputs/cluster/clusters.parquet"
    picture: bool = True

    def __post_init__(self) -> None:
        check_ranges(self, eps=(1e-6, 1), reach=(1e-6, 1))


class Grouped(NamedTuple):
    """Clusters int64 (N,), from the largest, -1 for none; and what was taken to find them."""

    labels: np.ndarray
    eps: float
    reach: float


def group(
    features: np.ndarray, options: Cluster, search: "str | retrieval.Graph" = "exact"
) -> Grouped:
    """Cluster unit features (N, D); what is not given is chosen."""
    most = 1.0 if options.eps is None else max(options.eps, options.reach or 0)
    graph = retrieval.jaccard_graph(
        features, options.k1, options.k2, most, search=search, device=device_of(options)
    )
    eps = options.eps or retrieval.choose_eps(graph, options.min_samples)
    reach = options.reach or options.eps or retrieval.choose_reach(eps)
    labels = retrieval.cluster_graph(graph, eps, options.min_samples)
    if reach > eps:
        labels = retrieval.join_outliers(labels, graph, reach)
    sizes = np.bincount(labels[labels >= 0])
    places = np.empty(len(sizes) + 1, np.int64)
    places[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    places[-1] = -1
    return Grouped(places[labels], eps, reach)


def complaints(labels: np.ndarray) -> list[str]:
    """What of the clusters (N,) cannot be as it should, in lines."""
    largest, none = (labels == 0).mean(), (labels < 0).mean()
    if largest > _LARGE and none > _TOO_MUCH:  # no eps mends both
        return [
            f"one cluster holds {100 * largest:.0f} % of the images, and {100 * none:.0f} % are in "
            "none: this network hardly tells these people apart"
        ]
    if largest > _LARGE:
        return [
            f"one cluster holds {100 * largest:.0f} % of the images: give a lower --eps, unless "
            "they show few people"
        ]
    if none > _TOO_MUCH:
        return [
            f"{100 * none:.0f} % of the images are in no cluster: give a higher --eps or --reach, "
            "or a lower --min_samples where people have few images"
        ]
    return []


def shown(features: np.ndarray, labels: np.ndarray) -> "list[report.ClusterRow]":
    """Of the largest clusters the middle image, and others from the most alike to it on."""
    rows = []
    for number in range(min(_DRAWN, labels.max() + 1)):
        members = np.flatnonzero(labels == number)
        inside = features[members]
        middle = (inside @ inside.mean(0)).argmax()
        alike = inside @ inside[middle]
        alike[middle] = np.inf  # first, whatever rounding says
        order = np.argsort(-alike, kind="stable")
        few = order[np.unique(np.linspace(0, len(order) - 1, _OF_CLUSTER + 1).astype(int))]
        alike[middle] = 1
        rows.append(report.ClusterRow(number, members[few], alike[few].tolist()))
    return rows


def draw(
    path: Path, images: "Pool", rows: "Sequence[report.ClusterRow]", labels: np.ndarray
) -> Path:
    """Draw the rows that ``shown`` gives."""
    drawn = []
    for row in rows:
        first, *others = data.decoded(images, row.places)
        label = f"cluster {row.cluster}\n{counted((labels == row.cluster).sum(), 'image')}"
        drawn.append(report.GalleryRow(label, first, others, None, row.similarities[1:]))
    title = f"{_number(labels)}, the largest first"
    note = "the image in the middle of each, then others, from the most alike to the least"
    return report.ranked_galleries(path, drawn, title, note, head="middle")


def with_identities(images: "Pool | None") -> "Pool | LabelledImages | None":
    """The images with the identities that nobody but those who generated them knows."""
    if isinstance(images, data.PeoplePool):
        return images.labelled()
    if isinstance(images, data.SubsetPool) and isinstance(images.pool, data.PeoplePool):
        return images.pool.labelled().subset(images.indices)
    return images


def show(embedded: Embedded, labels: np.ndarray, facts: dict[str, str], options: Cluster) -> None:
    """Draw the largest clusters and write the page, and say where they are."""
    page, images = page_of(options.out), embedded.images
    rows = shown(embedded.features, labels)
    if images is None:
        print(f"no picture: the images of {options.pool} are not where they were embedded")
    else:
        facts = facts | {"Images": images.describe()}
        print(f"drawn in {draw(picture_of(options.out), images, rows, labels)}")
    report.write_or_warn(lambda: report.write_clusters(
        page, report.of_clusters(labels, with_identities(images), rows), facts,
        complaints(labels), asdict(options),
    ))  # fmt: skip


def _number(labels: np.ndarray) -> str:
    return counted(int(labels.max()) + 1, "cluster")


def features_of(options: Cluster) -> tuple[Embedded, str | None]:
    """The features to cluster and the weights that they were made with, if that is known.

    What would be written is looked at before.
    """
    check_listing(options.out)
    written = [options.out, picture_of(options.out)] if options.picture else [options.out]
    beside = {page_of(options.out): is_page} if options.picture else {}
    if data.feature_files.is_features(options.pool):
        check_outputs(*written, inputs=[options.pool], beside=beside, keep=keeps(options))
        weights = data.feature_files.about(options.pool).get("weights")
        return read_embedded(options.pool), weights and str(weights)
    from transreid_ssl.models import find_weights

    weights, model = load_model(options)
    read = [options.pool, find_weights(weights)]
    check_outputs(*written, inputs=read, beside=beside, keep=keeps(options))
    return embed_pool(options.pool, model, options, options.skip_broken), weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, embed, group, write and draw."""
    options = command.options(Cluster, "python -m transreid_ssl.cluster", arguments)
    embedded, weights = features_of(options)
    labels, eps, reach = group(embedded.features, options, embedded.search)
    chosen = "which makes the most clusters" if options.eps is None else "as given"
    chosen += f", reach {reach:.3g}" * (reach > eps)
    print(f"eps {eps:.3g}, {chosen}: {_number(labels)} of {counted(len(labels), 'image')}, "
          f"{(labels < 0).sum():,} in none")  # fmt: skip
    for line in complaints(labels):
        print(f"warning: {line}")
    names = [embedded.names[one] for one in range(len(labels))]
    settings = {name: getattr(options, name) for name in ("min_samples", "k1", "k2")}
    found = {"pool": options.pool, "weights": weights, "eps": eps, "reach": reach}
    write_listing(options.out, {"image": names, "cluster": labels}, found | settings)
    print(f"written to {options.out}")
    if options.picture and labels.max() < 0:
        print("no picture and no page: there is no cluster to show")
    elif options.picture:
        facts = {
            "Images": options.pool, "Weights": weights or "not known",
            "Table": f"{options.out}, with the cluster of each image",
            "eps": f"{eps:.3g} in Jaccard distances of 0 to 1, {chosen}",
        }  # fmt: skip
        show(embedded, labels, facts, options)


if __name__ == "__main__":
    command.run(main)
