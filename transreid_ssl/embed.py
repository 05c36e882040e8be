"""The features of a pool of images, in a file: for search, clustering or other programs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from transreid_ssl import __version__, command, data, retrieval
from transreid_ssl.errors import UserError
from transreid_ssl.features import (
    EmbeddingSettings,
    device_of,
    how_made,
    load_model,
    offering_to_skip,
)
from transreid_ssl.files import fingerprint
from transreid_ssl.origin import trained_pool
from transreid_ssl.outputs import ANEW, DONE, check_outputs
from transreid_ssl.parts import Parts, part_size, rows
from transreid_ssl.words import counted

if TYPE_CHECKING:
    from transreid_ssl.data import Pool
    from transreid_ssl.data.feature_files import Batch
    from transreid_ssl.models import Backbone

_PART = 2048  # images at most, rounded up to whole batches, between two points to go on from


@dataclass(frozen=True)
class Embed(EmbeddingSettings):
    """Write the features of images, (N, D), of unit length, in one table with their names.

    Example: ``python -m transreid_ssl.embed --images demo:identities=20 --out features.parquet``.
    The table has the columns image and feature, and camera and track where the pool knows them;
    search and cluster take it in the place of images. With --out features.npy the features stand
    in that file, for ``numpy.load``, and the rest in features.parquet, row by row. A stopped run
    goes on where it was, when the same command is given again, and ends with the same features, bit
    for bit. Images whose files were written anew meanwhile (by time or size) are embedded again: a
    pool that is copied for each job keeps its times with ``cp -p``.

    Args:
        images: Any pool: a folder, a list, Parquet shards, an LMDB, or demo; by default the pool
            that the network was pre-trained on, or the generated people that it was trained on.
        subset: Only these of its images: a table or list, as ``transreid_ssl.cfs select`` writes.
        out: A .parquet table, or a .npy or .safetensors file with a table of names beside it.
        dtype: Of the features; float16 takes half the place.
        index: Write a faiss index beside, which search and cluster take for large galleries, and
            other programs read with faiss.read_index (pip install 'transreid_ssl[faiss]').
        skip_broken: Leave out images that cannot be read, instead of stopping at the first.
    """

    images: str | None = None
    subset: str | None = None
    out: str = "outputs/embed/features.parquet"
    dtype: Literal["float32", "float16"] = "float32"
    index: bool = False
    skip_broken: bool = False


def open_parts(options: Embed, weights: str, pool: "Pool") -> Parts:
    """The parts that the features are made in; those left by the same command are taken up."""
    import torch

    from transreid_ssl.models import weights_digest

    settings = options.embedding | {"feature": options.feature, "skip": options.skip_broken}
    del settings["num_workers"]
    place = {"device": torch.device(device_of(options)).type, "torch": torch.__version__}
    made = settings | place | {"version": __version__, "weights": weights_digest(weights)}
    key = fingerprint([pool.fingerprint, *(f"{name}={value}" for name, value in made.items())])
    size = options.batch_size * -(-part_size(len(pool), _PART) // options.batch_size)
    texts = {"images": pool.fingerprint} | {name: str(value) for name, value in made.items()}
    parts = Parts(Path(options.out), key, pool, size, texts)
    for line in parts.check(f"remove the folder {parts.folder}, or give another --out"):
        print(line, flush=True)
    return parts


def is_done(parts: Parts, options: Embed) -> bool:
    """Whether all is there already; other features are replaced only where that is asked for.

    Raises:
        UserError: something else is there.
    """
    if options.overwrite or not parts.out.exists():
        return False
    index = data.feature_files.index_path(parts.out)
    table = data.feature_files.names_path(parts.out) or parts.out
    ours = data.feature_files.is_table_of_names(table)
    known = data.feature_files.about(parts.out) if ours else {}
    if known.get("key") == parts.key and known.get("dtype") != options.dtype:
        what = f"in {known.get('dtype')}"
    elif known.get("key") != parts.key:
        made = parts.differences(known.get("made")) if "key" in known else ""
        what = f"and not marked as of these images, weights and settings{made}"
    elif options.index and not index.is_file():
        what = "without an index, which is made together with the features"
    elif not parts.is_of_now(known):
        what = ANEW
    else:
        return True
    raise UserError(
        f"{parts.out}: is there already, {what}; give another --out, or replace it by "
        "--overwrite true"
    )


def embed_parts(parts: Parts, model: "Backbone", pool: "Pool", options: Embed) -> None:
    """Embed what is not done yet, part by part; a batch is the same as in an unbroken run.

    Raises:
        UserError: an image that cannot be read, or features that are not finite.
    """
    pending = parts.pending()
    parts.watch(pending)
    places = np.concatenate([np.empty(0, np.int64), *map(parts.images, pending)]).astype(np.int64)
    broken = {"skip_corrupt": options.skip_broken}
    batches = retrieval.embed_batches(
        model, pool, title="images", places=places, **broken, **options.embedding
    )
    ahead = next(batches, None)
    for part in pending:
        found = [(np.empty(0, np.int64), np.empty((0, model.spec.embed_dim), np.float32))]
        while ahead is not None and ahead[0][0] < parts.images(part).stop:
            index, features = (values.numpy() for values in ahead)
            retrieval.embed.require_finite(features, pool.names, index)
            found.append((index, features))
            ahead = next(batches, None)
        index, features = map(np.concatenate, zip(*found))
        parts.write(part, {"place": pa.array(index), "feature": rows(features)})


def embedded(parts: Parts, dim: int) -> "Iterator[Batch]":
    """What the finished parts hold."""
    for table in parts.tables():
        features = table["feature"].combine_chunks().flatten().to_numpy()
        yield table["place"].to_numpy(), features.reshape(-1, dim)


def index_of(parts: Parts, dim: int, options: Embed) -> bytes | None:
    """The faiss index of the finished parts, as they will be read, if one is asked for."""
    if not options.index:
        return None
    kind = data.feature_files.DTYPES[options.dtype]
    graph = retrieval.Graph(dim)
    for _, features in embedded(parts, dim):
        graph.add(features.astype(kind).astype(np.float32))
    return graph.to_bytes() if len(graph) else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, embed, write."""
    options = command.options(Embed, "python -m transreid_ssl.embed", arguments)
    from transreid_ssl.models import find_weights

    out = Path(options.out)
    data.feature_files.check_suffix(out)
    weights, model = load_model(options)
    source = options.images or trained_pool(model.spec)
    names = data.feature_files.names_path(out)
    beside = {} if names is None else {names: data.feature_files.is_table_of_names}
    if options.index:
        retrieval.Graph.require()
        beside[data.feature_files.index_path(out)] = data.feature_files.is_index
    inputs = [source, options.subset, find_weights(weights)]
    check_outputs(out, inputs=inputs, beside=beside)  # what is there already is looked at below
    pool = data.open_pool(source, options.subset)
    print(f"{weights}: {model.spec}\n{pool.describe()}", flush=True)
    parts = open_parts(options, weights, pool)
    if is_done(parts, options):
        print(f"{out}: {DONE} (--overwrite true makes it anew)")
        return
    if before := parts.describe_finished(parts.pending()):
        print(before, flush=True)
    with offering_to_skip():
        embed_parts(parts, model, pool, options)
    dim = model.spec.embed_dim
    record = {"weights": str(weights), "pool": pool.source, "fingerprint": pool.fingerprint}
    record |= {"key": parts.key, "dtype": options.dtype, "made": dict(parts.made)} | parts.seen()
    record |= how_made(model, options)
    count = data.feature_files.write_features(
        out, embedded(parts, dim), pool, dim, record, options.dtype, index_of(parts, dim, options)
    )
    parts.remove()
    left_out = f", {counted(len(pool) - count, 'broken one')} left out" * (count < len(pool))
    where = f"; their names: {names}" if names else " with their names"
    written = f"; index: {data.feature_files.index_path(out)}" * options.index
    print(f"{out}: features of {counted(count, 'image')}{left_out}{where}{written}")


if __name__ == "__main__":
    command.run(main, resumes=True)
