"""The features of a pool of images, in a file: for search, clustering or other programs."""

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from transreid_ssl import command
from transreid_ssl.data import open_pool
from transreid_ssl.errors import UserError
from transreid_ssl.features import EmbeddingSettings, load_model
from transreid_ssl.files import atomic_path
from transreid_ssl.retrieval import embed_batches
from transreid_ssl.tables import write_table

_HEADER_BYTES = 4096  # of the file of features; the header is written last, when all is known
_SUFFIXES = (".safetensors", ".npy")


@dataclass(frozen=True)
class Embed(EmbeddingSettings):
    """Write the features of images: float32 (N, D), of unit length, and a table of their names.

    Example: ``python -m transreid_ssl.embed --images demo:identities=20 --out features.npy``. The
    names stand in features.parquet, column image, row by row. Read the features with
    ``numpy.load`` or ``safetensors.numpy.load_file(path)["features"]``.

    Args:
        images: Any pool: a folder, a list, Parquet shards, an LMDB, or demo; by default the pool
            that the network was pre-trained on.
        subset: Only these of its images: a table or list, as ``transreid_ssl.cfs select`` writes.
        out: A .safetensors or a .npy file.
        skip_broken: Leave out images that cannot be read, instead of stopping at the first.
    """

    images: str | None = None
    subset: str | None = None
    out: str = "outputs/embed/features.safetensors"
    skip_broken: bool = False


def write_features(
    out: str | Path, batches: Iterable[tuple[Tensor, Tensor]], about: dict[str, str]
) -> np.ndarray:
    """Write features as they come, so that memory does not grow with their number.

    Args:
        batches: (index int64 (B,), features float32 (B, D)).
        about: what a .safetensors file says of itself.

    Returns:
        int64 (N,): the index of each row that was written.

    Raises:
        UserError: nothing to write, another kind of file, or a file that cannot be written.
    """
    suffix = Path(out).suffix
    if suffix not in _SUFFIXES:
        raise UserError(f"{out}: write features to a file named {' or '.join(_SUFFIXES)}")
    rows: list[np.ndarray] = []
    dim = 0
    with atomic_path(out) as temporary, open(temporary, "wb") as file:
        file.seek(_HEADER_BYTES)
        for index, features in batches:
            features.numpy().astype("<f4", copy=False).tofile(file)
            rows.append(index.numpy())
            dim = features.shape[1]
        if not rows:
            raise UserError(f"{out}: no image could be embedded, so nothing was written")
        written = np.concatenate(rows)
        _write_header(file, suffix, (len(written), dim), about)
    return written


def _write_header(
    file: BinaryIO, suffix: str, shape: tuple[int, int], about: dict[str, str]
) -> None:
    """Fill the reserved space; both formats let a header be padded with spaces."""
    if suffix == ".npy":
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", _HEADER_BYTES - 10)
        text = repr({"descr": "<f4", "fortran_order": False, "shape": shape})
        header = start + text.encode().ljust(_HEADER_BYTES - 11) + b"\n"
    else:
        tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]}
        text = json.dumps({"__metadata__": about, "features": tensor})
        start = struct.pack("<Q", _HEADER_BYTES - 8)
        header = start + text.encode().ljust(_HEADER_BYTES - 8)
    if len(header) != _HEADER_BYTES:
        raise UserError(f"the header of {len(header)} bytes is too long: shorten the paths")
    file.seek(0)
    file.write(header)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, embed, write."""
    options = command.options(Embed, "python -m transreid_ssl.embed", arguments)
    weights, model = load_model(options)
    pool = open_pool(
        options.images or str(model.spec.provenance.get("pool", "demo")), options.subset
    )
    print(f"{weights}: {model.spec}\n{pool.describe()}", flush=True)
    record = {"weights": str(weights), "pool": pool.source, "fingerprint": pool.fingerprint}
    broken = {"skip_corrupt": options.skip_broken}
    batches = embed_batches(model, pool, title="images", **broken, **options.embedding)
    rows = write_features(options.out, batches, record)
    names = Path(options.out).with_suffix(".parquet")
    write_table(names, {"image": pool.arrow_names().take(rows).column}, record)
    left_out = f", {len(pool) - len(rows):,} broken ones left out" * (len(rows) < len(pool))
    print(f"{options.out}: features of {len(rows):,} images{left_out}; their names: {names}")


if __name__ == "__main__":
    command.run(main)
