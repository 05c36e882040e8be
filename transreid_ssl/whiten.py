"""Features that tell people apart better, without training: of stripes, and whitened."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transreid_ssl import command, data, retrieval
from transreid_ssl.errors import UserError
from transreid_ssl.features import EmbeddingSettings, load_model, place_weights, say_left_out
from transreid_ssl.number_types import NonNegativeInt, PositiveInt
from transreid_ssl.origin import trained_pool
from transreid_ssl.outputs import COPIES
from transreid_ssl.terms import WHITENED
from transreid_ssl.words import counted

if TYPE_CHECKING:
    from transreid_ssl.data import Pool
    from transreid_ssl.models import Backbone, BackboneSpec, Readout

DEFAULT_OUT = COPIES[0]
STRIPES = 8
"""That a person is cut into, unless the map has fewer rows."""
WIDEST = 6_144
"""Values of all stripes together by default: a covariance of 38 million numbers."""
FEW = 4
"""Images for each value below which the images themselves are spread until all are as unlike."""


@dataclass(frozen=True)
class Whiten(EmbeddingSettings):
    """Read features from stripes of a person and whiten them, as crops without labels teach it.

    Example: ``python -m transreid_ssl.whiten --images CROPS``. The copy of the weights
    gives these features to every command: evaluate, embed, search, verify, cluster, export. Nothing
    is trained, and what is trained from it begins with the network itself. Give crops of the place
    where the network is to be used; some hundred do, thousands are better. It is for networks that
    were pre-trained without labels; one that was fine-tuned with labels it may harm. Look by
    evaluate, or verdict, what it does to yours.

    Args:
        images: A pool of crops; by default the one that the network was pre-trained on, or the
            generated people that it was trained on.
        parts: Stripes from top to bottom of the network's last map, joined; 0 for the network's own
            feature. By default 8, or fewer where the map is coarse or its cells are wide.
        dim: Values of the feature, at most: the directions in which the crops vary most. More may
            gain a little for a well-trained network, and harm a weak one.
        max_images: Of a larger pool, so many at random.
        seed: Of the choice.
        out: The weights with these features (outputs/whiten/model.safetensors).
        in_place: Write it into the weights file itself instead.
    """

    images: str | None = None
    parts: NonNegativeInt | None = None
    dim: PositiveInt = 256
    max_images: PositiveInt = 20_000
    seed: NonNegativeInt = 0
    out: str | None = None
    in_place: bool = False


def stripes_of(spec: "BackboneSpec") -> int:
    """How many stripes to read of a network."""
    wide = WIDEST // spec.architecture.map_dim
    return max(1, min(STRIPES, spec.grid[0], wide))


def learn(
    model: "Backbone", pool: "Pool", parts: int, dim: int, options: EmbeddingSettings
) -> "Backbone":
    """The network whose features are whitened, as the images of the pool teach it.

    Args:
        model: The network as it was trained.
        parts: Stripes to read; 0 for the network's own feature.
        dim: Values of the whitened feature, at most.
        options: How to embed; mirrored images are left out.

    Raises:
        UserError: too few images that can be read, or all alike, no such stripes, or features that
            are not finite.
    """
    import torch

    from transreid_ssl.models import Readout

    features, readable = retrieval.embed_images(
        _with_readout(model, Readout(parts) if parts else None), pool,
        title="images", skip_corrupt=True, **options.embedding | {"flip": False},
    )  # fmt: skip
    if len(readable) < len(pool):
        say_left_out(pool, len(readable))
    retrieval.embed.require_finite(features.numpy(), pool.names, readable)
    count, width = features.shape
    print(f"whitening {width:,} values of {counted(count, 'image')}", flush=True)
    dim = min(int(dim), width)
    if count < FEW * dim:
        print(
            f"note: {counted(count, 'image')} for {dim} values: among these very images the "
            "features may tell little; give more images or a smaller --dim, or use it on others"
        )
    mean, matrix, shrinkage = retrieval.learn_whitening(features.numpy(), dim)
    words = f"{counted(len(readable), 'image')}: {pool.source}"
    tensors = {"mean": torch.from_numpy(mean), "matrix": torch.from_numpy(matrix)}
    return _with_readout(
        model, Readout(int(parts), dim, shrinkage=shrinkage, images=words), tensors, pool.source
    )


def _with_readout(
    model: "Backbone", readout: "Readout | None", tensors: dict | None = None, pool: str = ""
) -> "Backbone":
    """The same network with another readout, whose weights ``tensors`` were learnt on ``pool``."""
    from transreid_ssl.models import from_spec

    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("readout.")}
    origin = {k: v for k, v in model.spec.provenance.items() if k != WHITENED}
    origin |= {WHITENED: pool} if pool else {}
    found = from_spec(model.spec.changed(readout=readout, provenance=origin))
    found.load_state_dict(kept | {f"readout.{name}": v for name, v in (tensors or {}).items()})
    return found.to(next(model.parameters()).device).eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, embed, learn, and write the weights."""
    options = command.options(Whiten, "python -m transreid_ssl.whiten", arguments)
    from transreid_ssl.models import save_backbone

    if options.feature is not None:
        raise UserError("--feature: features are read as --parts says: leave it out")
    if options.flip:
        raise UserError("--flip: whitening is learnt of images as they are: leave it out")
    weights, model = load_model(options, as_trained=True)
    source = options.images or trained_pool(model.spec)
    out = place_weights(options, weights, DEFAULT_OUT, inputs=[source])
    model = _with_readout(model, None) if model.spec.readout else model
    parts = stripes_of(model.spec) if options.parts is None else options.parts
    if parts * model.spec.architecture.map_dim > 4 * WIDEST:
        raise UserError(
            f"--parts {parts}: too wide for a covariance; give {stripes_of(model.spec)}"
        )
    pool = data.open_pool(source)
    print(f"{weights}: {model.spec}\n{pool.describe()}", flush=True)
    if len(pool) > options.max_images:
        places = data.doctor.choose(len(pool), options.max_images, options.seed)
        pool = data.SubsetPool(pool, places)
        print(f"{len(pool):,} of these at random", flush=True)
    found = learn(model, pool, parts, options.dim, options)
    read = found.spec.readout
    print(f"{read} by {read.images} (shrinkage {read.shrinkage:.2g})")
    save_backbone(out, found)
    print(f"written to {out}; compare it with the network as it was by evaluate, or by verdict")


if __name__ == "__main__":
    command.run(main)
