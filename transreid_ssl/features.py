"""From a weights file to the features of images: what the commands that embed images share."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from transreid_ssl import data, retrieval, training
from transreid_ssl.errors import UserError
from transreid_ssl.number_types import NonNegativeInt, PositiveInt
from transreid_ssl.outputs import (
    BACKBONE,
    BEST,
    COPIES,
    MARK,
    MODEL,
    OUTPUTS,
    Overwriting,
    check_outputs,
    choose_run,
    finished_runs,
    keeps,
)
from transreid_ssl.terms import WHITENED
from transreid_ssl.words import counted, part_of

if TYPE_CHECKING:
    from transreid_ssl.data import Pool
    from transreid_ssl.models import Backbone


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings(Overwriting):
    """How to embed images; every choice that the weights file makes itself is left to it.

    Args:
        weights: Any weights file, folder or Hugging Face id; by default those of the newest
            finished run in outputs/, or the copy that whiten or calibrate made of them since; it is
            said.
        run: Those of this run instead: the name of its folder in outputs/, or its path.
        feature: Take features "before" or "after" the batch norm that some fine-tuned networks end
            with; by default as they were meant.
        flip: Add the features of the mirrored image, as papers do; doubles the time.
        batch_size: Images at once.
        num_workers: Decoding processes.
        precision: "no" is float32; bf16 is faster on recent GPUs.
        device: By default a GPU where there is one.
    """

    weights: str | None = None
    run: str | None = None
    feature: Literal["before", "after"] | None = None
    flip: bool = False
    batch_size: PositiveInt = 128
    num_workers: NonNegativeInt = 2
    precision: Literal["no", "bf16", "fp16"] = "no"
    device: str | None = None

    @property
    def embedding(self) -> dict[str, Any]:
        """Those that ``embed_images`` takes."""
        names = ("flip", "batch_size", "num_workers", "precision")
        return {name: getattr(self, name) for name in names}


def load_model(settings: EmbeddingSettings, as_trained: bool = False) -> tuple[str, "Backbone"]:
    """The weights file that was taken, as ``find_run`` says, and its network on its device.

    Says which one was taken where none was named, and what may surprise about how it was read.

    Raises:
        UserError: no weights, unreadable ones, ``feature`` "after" without a norm there, or a
            device that is not there.
    """
    from transreid_ssl.models import load_backbone, read_spec

    weights = find_run(settings.weights, settings.run, as_trained)
    norm: dict[str, Any] = (
        {} if settings.feature is None else {"feature_norm": settings.feature == "after"}
    )
    if norm and read_spec(weights).readout is not None:
        raise UserError(f"{weights}: its features are whitened: leave --feature out")
    model = load_backbone(weights, **norm)
    for line in model.load_report.surprises():
        print(f"note: {weights}: {line}", flush=True)
    if any(name.startswith("bottleneck.") for name in model.load_report.missing):
        raise UserError(
            f"{weights}: holds no batch norm to take features after; leave --feature out"
        )
    if device_of(settings) == "cpu":
        training.use_cpu(settings.num_workers)
    return weights, retrieval.embed.on_device(model, settings.device)


def place_weights(
    options: Any, weights: str, default: str, inputs: Sequence[str | None] = ()
) -> Path:
    """Where a command writes the weights that it was given, refused now if it cannot.

    Args:
        options: with ``out`` and ``in_place``.
        weights: those that it was given.
        default: the place where none is named.
        inputs: what else it reads.

    Raises:
        UserError: a file that is read, of another kind or there already, or two places.
    """
    from transreid_ssl.models import find_weights

    source = find_weights(weights)
    if options.in_place and options.out is not None:
        raise UserError("--in_place and --out: give one of them")
    if options.in_place:
        if source.suffix != ".safetensors" or not Path(weights).exists():
            raise UserError(f"{weights}: not a safetensors file here: give --out instead")
        return source
    out = Path(options.out or default)
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: weights are written as safetensors; name it ….safetensors")
    if out.name in (BACKBONE, MODEL, BEST) and (out.parent / MARK).is_file():
        raise UserError(
            f"{out}: is where a run leaves its own weights; give another name, or --in_place true"
        )
    # What stands at the default place was written by this command, and is written again as it is.
    again = options.out is None and out.exists() and out.samefile(source)
    check_outputs(out, inputs=[*inputs, *([] if again else [source])], keep=keeps(options))
    if out.is_file() and not options.overwrite and _network_of(out) != _network_of(source):
        raise UserError(
            f"{out}: is a copy of another network; give an --out, or replace it by --overwrite true"
        )
    return out


def find_run(weights: str | None, run: str | None, as_trained: bool = False) -> str:
    """The weights that were named, or those of a run: that which was named, or else the newest.

    Of the newest run the copy is taken that ``whiten`` or ``calibrate`` wrote since it ended, if
    there is one, unless it is wanted ``as_trained``. Says which, and why, where weights are not
    named.

    Raises:
        UserError: both are named, no run has left any, or not the one that was named.
    """
    if weights and run:
        raise UserError(f"--weights {weights} and --run {run}: name one of them")
    if weights:
        return weights
    copies = [] if run else sorted(filter(Path.is_file, map(Path, COPIES)), key=_written)
    if copies and not finished_runs():
        taken, why = copies[-1], f"no run in {OUTPUTS}/ has ended, and this is {_made(copies[-1])}"
    else:
        found, why = choose_run(run)
        taken = found.weights
        newer = [copy for copy in copies if _written(copy) > found.ended and not as_trained]
        ours = [copy for copy in newer if _is_of(copy, _network_of(taken))]
        if ours:
            taken = ours[-1]
            name = found.folder.name
            why = f"{_made(taken)} of {name}, {why}; --run {name} takes {found.weights}"
        elif newer:
            why += f"; {newer[-1]} is of another network, or cannot be read"
    print(f"--weights {taken}: {why}", flush=True)
    return str(taken)


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _made(copy: Path) -> str:
    """What a copy is, in words."""
    from transreid_ssl.models import read_spec

    spec = read_spec(copy)
    ways = {"whitened": spec.readout, "calibrated": spec.calibration}
    return f"a {' and '.join(way for way, found in ways.items() if found) or 'plain'} copy"


def _network_of(weights: Path) -> tuple[str, dict[str, Any]]:
    """Which training of which network a file is of, whether whitened or not."""
    from transreid_ssl.models import read_spec

    spec = read_spec(weights)
    return spec.name, {name: v for name, v in spec.provenance.items() if name != WHITENED}


def _is_of(weights: Path, network: tuple[str, dict[str, Any]]) -> bool:
    try:
        return _network_of(weights) == network
    except UserError:  # damaged: nobody asked for it
        return False


def device_of(settings: EmbeddingSettings) -> str:
    """The device asked for, or else a GPU where there is one."""
    return settings.device or retrieval.embed.default_device()


class Embedded(NamedTuple):
    """Features float32 (N, D), the names of their images, and these, where they are still there."""

    names: Sequence[str]
    features: np.ndarray
    images: "Pool | None"
    search: "str | retrieval.Graph" = "exact"
    """How to look for neighbours among them: by a graph where an index was given."""


def read_embedded(path: str) -> Embedded:
    """What `python -m transreid_ssl.embed` wrote: features, or the index beside them.

    Raises:
        UserError: not such a file, a damaged one, or an index without faiss.
    """
    names, features = data.feature_files.read_features(path)
    search = "exact"
    if Path(path).suffix == data.feature_files.INDEX:
        search = retrieval.Graph.from_bytes(data.feature_files.read_index(path))
        if len(search) != len(names):
            raise UserError(
                f"{path}: an index of {counted(len(search), 'row')}, and there are {len(names):,}"
            )
    return Embedded(names, np.array(features), data.feature_files.images_of(path), search)


def how_made(model: "Backbone", settings: EmbeddingSettings) -> dict[str, Any]:
    """What a file of features says of how it was made, for ``check_alike``.

    The network is told by its weights alone: calibrating it later changes its file, not its
    features.
    """
    from transreid_ssl.models import network_checksum

    norm = bool(model.spec.feature_norm)
    return {"flip": settings.flip, "feature_norm": norm, "network": network_checksum(model)}


def check_alike(path: str, model: "Backbone", settings: EmbeddingSettings) -> None:
    """Refuse to compare the features of a file with others than were made in the same way.

    What an older file does not say is not checked.

    Raises:
        UserError: the network, ``flip`` or ``feature`` differ; it says which.
    """
    made, now = data.feature_files.about(path), how_made(model, settings)
    for name, option in (("flip", "--flip"), ("feature_norm", "--feature")):
        if made.get(name, now[name]) != now[name]:
            words = {"flip": ("false", "true"), "feature_norm": ("before", "after")}[name]
            there, here = words[bool(made[name])], words[bool(now[name])]
            raise UserError(
                f"{path}: its features were made with {option} {there}, and here it is {here}: "
                f"give {option} {there}, or embed again"
            )
    if made.get("network", now["network"]) != now["network"]:
        raise UserError(
            f"{path}: its features are of another network: give the --weights that they were made "
            f"with ({made.get('weights')}), or embed again"
        )


def say_left_out(pool: "Pool", readable: int) -> None:
    """How many images could not be read."""
    said = part_of(len(pool) - readable, len(pool), "image")
    print(f"broken and left out: {said}", flush=True)


@contextlib.contextmanager
def offering_to_skip() -> Iterator[None]:
    """Within it, what is said of an image that cannot be read names the option that leaves it out.

    For commands that have ``skip_broken``.
    """
    try:
        yield
    except UserError as error:
        if str(error).endswith(data.images.REPLACE):
            raise UserError(f"{error}, or leave such images out with --skip_broken true") from error
        raise


def embed_pool(
    source: "str | Pool", model: "Backbone", settings: EmbeddingSettings, skip_broken: bool = False
) -> Embedded:
    """The features of the images of any pool, by its name or as it was opened.

    Raises:
        UserError: no pool, images that cannot be read, or features that are not finite.
    """
    pool = data.open_pool(source) if isinstance(source, str) else source
    print(pool.describe(), flush=True)
    with offering_to_skip():
        features, readable = retrieval.embed_images(
            model, pool, title="images", skip_corrupt=skip_broken, **settings.embedding
        )
    if not len(readable):
        raise UserError(f"{pool.source}: not one image in it can be read; check how it was made")
    if len(readable) < len(pool):
        say_left_out(pool, len(readable))
        pool = data.SubsetPool(pool, readable)
    features = features.numpy()
    retrieval.embed.require_finite(features, pool.names)
    return Embedded(pool.names, features, pool)
