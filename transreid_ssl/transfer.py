"""Direct transfer: one network on labelled sets that it was not trained on, as one table."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transreid_ssl import __version__, command, data, retrieval
from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.errors import UserError
from transreid_ssl.features import EmbeddingSettings, device_of, load_model
from transreid_ssl.files import atomic_paths
from transreid_ssl.origin import Source, was_trained_on
from transreid_ssl.outputs import begins_with, check_outputs, keeps
from transreid_ssl.words import counted

if TYPE_CHECKING:
    from transreid_ssl.data import ReIDProtocol
    from transreid_ssl.models import Backbone, BackboneSpec
    from transreid_ssl.retrieval import RetrievalMetrics

DEMO = ("demo:style=1", "demo:style=2")
SETS_HELP = (
    "Labelled sets, one after another: NAME=FOLDER for images on disk (market1501, msmt17, "
    "dukemtmc, occluded_duke, cuhk03_labeled, cuhk03_detected, personx, folder, or several joined "
    "by +), the name alone for generated people (demo:key=value,…)."
)
TITLE = "Direct transfer, in percent:"
TITLES = ("set", "queries", "gallery", "mAP", "rank-1", "rank-5", "rank-10", "mINP", "chance mAP")


@dataclass(frozen=True)
class Transfer(EmbeddingSettings):
    """Evaluate one network on several labelled sets, without any training on them, as one table.

    Example: ``python -m transreid_ssl.transfer --sets market1501=/data/Market-1501
    msmt17=/data/MSMT17``; without options, the newest network on generated people in two places, a
    sunny street and a dim hall. Sets that the network was trained on, as far as its weights tell,
    are marked.

    Args:
        sets: See ``SETS_HELP``.
        pattern: Of the set folder: where a path says the identity and the camera.
        out: The folder for metrics.json and table.md.
    """

    sets: Sequence[str] = field(
        default_factory=lambda: list(DEMO),
        metadata={"nargs": "+", "metavar": "SET", "help": SETS_HELP},
    )
    pattern: str = DEFAULT_PATTERN
    out: str = "outputs/transfer"


class Target(NamedTuple):
    """A labelled set to evaluate on."""

    label: str
    source: Source
    protocol: "ReIDProtocol"
    seen: bool
    """Whether the network was trained there."""


class Row(NamedTuple):
    """What the network reached on a set, and what a random order does."""

    target: Target
    network: "RetrievalMetrics"
    chance: "RetrievalMetrics"

    def cells(self) -> list[str]:
        """The texts of the row, as under ``TITLES``."""
        found = self.network
        rates = (found.mAP, *(found.rank(k) for k in (1, 5, 10)), found.mINP, self.chance.mAP)
        label = self.target.label + " (trained on)" * self.target.seen
        counts = (f"{found.num_queries:,}", f"{found.num_gallery:,}")
        return [label, *counts, *(f"{100 * rate:.1f}" for rate in rates)]


def parse_set(text: str) -> Source:
    """A set from NAME=FOLDER, or from the name alone of generated people.

    Raises:
        UserError: a set on disk without its folder.
    """
    if text.partition(":")[0] == "demo":
        return Source(text)
    name, _, root = text.partition("=")
    if not name or not root:
        raise UserError(f"--sets {text}: write NAME=FOLDER, such as market1501=/data/Market-1501")
    return Source(name, os.path.expanduser(root))


def open_targets(options: Transfer, spec: "BackboneSpec") -> list[Target]:
    """Open all sets before any work begins.

    Raises:
        UserError: one that cannot be opened, or whose cameras are not those that the network has
            embeddings of.
    """
    found = [parse_set(text) for text in options.sets]
    names = [source.name for source in found]
    targets = []
    for text, source in zip(options.sets, found):
        protocol = data.open_reid(source.name, source.root, options.pattern, purpose="test")
        seen = was_trained_on(spec, source, protocol)
        _check_cameras(spec, text, protocol, seen)
        unique = names.count(source.name) == 1 and source.name != "folder"
        label = source.name if unique else text
        targets.append(Target(label, source, replace(protocol, name=label), seen))
    return targets


def _check_cameras(spec: "BackboneSpec", text: str, protocol: "ReIDProtocol", seen: bool) -> None:
    """As many cameras in another place are not the cameras that embeddings were learnt for."""
    for images in (protocol.query, protocol.gallery):
        data.reid.camera_rows(images, protocol, spec.num_cameras)
    if spec.num_cameras and not seen:
        raise UserError(
            f"{text}: this network has embeddings of the {counted(spec.num_cameras, 'camera')} "
            "that it was trained with, and of none of this set: evaluate it on its own set"
        )


def measure(model: "Backbone", target: Target, options: Transfer) -> Row:
    """Embed the queries and the gallery of a set, and evaluate."""
    query, gallery = retrieval.embed_protocol(model, target.protocol, **options.embedding)
    query_labels, gallery_labels = data.reid.labels(target.protocol)
    found = retrieval.evaluate(
        query, *query_labels, gallery, *gallery_labels, device=device_of(options)
    )
    return Row(target, found, retrieval.chance(*query_labels, *gallery_labels))


def format_rows(rows: Sequence[Row]) -> str:
    """The Markdown table of the rows; rates in percent."""
    return markdown_table([list(TITLES), *(row.cells() for row in rows)])


def markdown_table(lines: list[list[str]]) -> str:
    """Lines of cells, the first of them titles, aligned for the terminal too."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines)]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [lines[0], ruler, *lines[1:]]
    padded = (
        [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:]))]
        for first, *rest in lines
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def report(rows: Sequence[Row], network: str) -> str:
    """The table with what has to be known to read it, as Markdown."""
    notes = [f"- {row.target.protocol.describe()}; {row.network.note}" for row in rows]
    lines = [f"{TITLE} {network}", "", format_rows(rows), "", *notes]
    if any(row.target.seen for row in rows):
        lines.append('- "(trained on)": training saw this place, so this row is no transfer')
    return "\n".join(lines) + "\n"


def record(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The figures of each set for JSON."""
    return [
        {
            "set": row.target.label,
            "root": row.target.source.root,
            "protocol": row.target.protocol.describe(),
            "trained_on": row.target.seen,
            "network": row.network.as_dict(),
            "chance": row.chance.as_dict(),
        }
        for row in rows
    ]


def outputs(
    folder: str,
    beginnings: Mapping[str, str],
    roots: Sequence[str | Path | None] = (),
    keep: bool = False,
) -> list[Path]:
    """The files to write, refused now if they cannot be: not after all the work.

    Args:
        beginnings: by the name of each, how the text begins that may be replaced.
        roots: what is read.
        keep: what is there already is not to be replaced.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"--out {folder}: is a file; give a folder")
    paths = [Path(folder) / name for name in beginnings]
    check_outputs(
        inputs=roots,
        beside=dict.fromkeys(paths, lambda path: begins_with(path, beginnings[path.name])),
    )
    check_outputs(*(paths if keep else []), keep=keep)
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, open every set, embed and evaluate one after another, and say and write the table."""
    options = command.options(Transfer, "python -m transreid_ssl.transfer", arguments)
    import torch

    from transreid_ssl.models import find_weights

    weights, model = load_model(options)
    sources = [parse_set(text) for text in options.sets]
    read = [find_weights(weights), *(source.root for source in sources)]
    written = {"metrics.json": '{\n  "network"', "table.md": TITLE}
    figures, table = outputs(options.out, written, read, keep=keeps(options))
    network = f"{weights}: {model.spec}"
    print(network, flush=True)
    targets = open_targets(options, model.spec)
    print(*(target.protocol.describe() for target in targets), sep="\n", flush=True)
    rows = [measure(model, target, options) for target in targets]
    print(format_rows(rows))
    settings = asdict(options) | {"weights": str(weights)}
    software = {"transreid_ssl": __version__, "torch": torch.__version__}
    everything = {"network": str(model.spec), "settings": settings, "sets": record(rows)}
    with atomic_paths(figures, table) as (first, second):
        first.write_text(json.dumps(everything | {"software": software}, indent=2) + "\n", "utf-8")
        second.write_text(report(rows, network), "utf-8")
    print(f"written to {figures} and {table}")


if __name__ == "__main__":
    command.run(main)
