"""Exporting a backbone to run without this package: a torch.export program, or ONNX.

    python -m transreid_ssl.export backbone.pt2

The program takes uint8 images (B, 3, height, width), any B, and gives float32 features (B, D),
of length 1: normalisation is inside, and resizing too where it is asked for, so that there is
nothing left to get wrong. transreid_ssl/models/EXPORT.md says how other programs run it.
"""

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transreid_ssl import command, data, retrieval
from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.errors import UserError
from transreid_ssl.features import find_run
from transreid_ssl.files import atomic_path
from transreid_ssl.number_types import PositiveInt
from transreid_ssl.origin import trained_pool
from transreid_ssl.outputs import Overwriting, check_outputs
from transreid_ssl.words import counted

if TYPE_CHECKING:
    from torch import Tensor

    from transreid_ssl.models import Backbone
    from transreid_ssl.models.exported import ExportedNetwork
    from transreid_ssl.onnx_files import OnnxNetwork

_FORMATS = ("pt2", "onnx")
PARITY = 1e-4
"""How far a float32 program's features may be from the network's: they are of length 1."""
_BATCH = 32


@dataclass(frozen=True)
class Export(Overwriting):
    """Export a backbone as a program that runs without this package.

    Example: ``python -m transreid_ssl.export backbone.onnx``, or of other weights than those of the
    newest finished run in outputs/ ``python -m transreid_ssl.export weights.safetensors
    backbone.onnx``; or smaller: ``--precision int8 --images /data/crops``. What is written is run
    beside the network first, and is not written if it gives something else.

    Args:
        files: The file to write; before it weights may be named: a file, a folder or a Hugging
            Face id.
        weights: The weights to take, where OUTPUT alone is named.
        run: The run whose weights to take: the name of its folder in outputs/, or its path.
        format: pt2 or onnx; by default what the output is named.
        input: What the program takes: uint8 from 0 to 255, float from 0 to 1, or normalised floats.
        resize: It takes images of any size, and resizes them as it is done in training.
        precision: float32; fp16, half the size; or int8, a quarter, with ranges found on images.
        images: A pool of images that int8's ranges are found on, and that the loss of accuracy is
            measured on; by default those that the network was trained on, where they are known.
        num_images: How many of them for each.
        data: A labelled set to tell mAP on, before and after: market1501, msmt17, folder, demo…
        root: Its folder.
        pattern: Of the set folder: where a path says the identity and the camera.
    """

    files: Sequence[str] = command.positional(
        "[WEIGHTS] OUTPUT",
        "the file to write, and before it the weights to take (newest in outputs/)",
    )
    weights: str | None = None
    run: str | None = None
    format: Literal["pt2", "onnx"] | None = None
    input: Literal["uint8", "float", "normalised"] = "uint8"
    resize: bool = False
    precision: Literal["float32", "fp16", "int8"] = "float32"
    images: str | None = None
    num_images: PositiveInt = 256
    data: str | None = None
    root: str | None = None
    pattern: str = DEFAULT_PATTERN


def export(weights: str | Path, output: str | Path, **options: Any) -> list[str]:
    """Write the backbone of a weights file as a program of its own, for any batch size.

    Args:
        options: further fields of ``Export``.

    Returns:
        What was measured, in lines for people.

    Raises:
        UserError: weights that cannot be read, a network that needs cameras, no ``onnx`` package,
            an output that is named otherwise or is the weights file, or a program that gives other
            features than the network; then nothing is written.
    """
    from transreid_ssl import onnx_files
    from transreid_ssl.models import find_weights, load_backbone

    asked = Export([str(weights), str(output)], **options)
    format = _format_of(Path(output), asked.format)
    check_outputs(output, inputs=[find_weights(weights), asked.images, asked.root])
    if format == "onnx":
        onnx_files.require_packages()
    else:
        _refuse_others(asked)
    model = load_backbone(weights)
    if model.spec.num_cameras:
        raise UserError(f"{weights}: needs the camera of each image, which cannot be exported")
    with atomic_path(output) as temporary:
        if format == "pt2":
            return _write_pt2(model, asked, temporary)
        return _write_onnx(model, asked, temporary)


def _refuse_others(asked: Export) -> None:
    """Nothing but ONNX files is made smaller, and compared on images of the user's."""
    usual = {"precision": "float32", "images": None, "data": None}
    for name, value in usual.items():
        if getattr(asked, name) != value:
            raise UserError(f"--{name} {getattr(asked, name)}: is for ONNX; name the output ….onnx")


def _write_pt2(model: "Backbone", asked: Export, path: Path) -> list[str]:
    import torch

    network, program = _program(model, asked)
    content = io.BytesIO()  # on a full disk torch's own writer ends the process
    torch.export.save(program, content)
    said = _parity(network, program.module(), asked)
    path.write_bytes(content.getbuffer())
    return [said]


def _write_onnx(model: "Backbone", asked: Export, path: Path) -> list[str]:
    """Write, run and compare, all before ``path`` is touched."""
    from transreid_ssl import onnx_files

    said = []
    wanted = asked.images is not None or asked.precision != "float32"
    seen = _images(model, asked) if wanted else None
    network, program = _program(model, asked)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "exported.onnx"
        onnx_files.write_onnx(network, program, made)
        if asked.precision != "fp16":
            said.append(_parity(network, onnx_files.OnnxNetwork(made).run, asked))
        if asked.precision == "int8":
            quantised = Path(folder) / "int8.onnx"
            onnx_files.quantise(made, quantised, seen[0].split(_BATCH), asked.input)
            made = quantised
        running = onnx_files.OnnxNetwork(made)
        said += [] if seen is None else [_likeness(model, running, seen[1], asked)]
        said += _accuracy(model, running, asked)
        path.write_bytes(made.read_bytes())
    return [*said, f"{path.stat().st_size / 1e6:.1f} MB"]


def _program(model: "Backbone", asked: Export) -> "tuple[ExportedNetwork, Any]":
    """The network with what goes around it, and its torch.export program."""
    import torch

    from transreid_ssl.models.exported import ExportedNetwork

    half = asked.precision == "fp16"
    network = ExportedNetwork(model, asked.input, asked.resize, half).eval()
    example, dimension = _noise(network, 2, asked), torch.export.Dim
    dynamic = {0: dimension("batch", min=1)}
    if asked.resize:
        dynamic |= {2: dimension("height", min=2), 3: dimension("width", min=2)}
    return network, torch.export.export(network, (example,), dynamic_shapes=(dynamic,))


def _noise(network: "ExportedNetwork", count: int, asked: Export) -> "Tensor":
    """Random images as the program takes them; of a size of their own where it resizes."""
    import torch

    from transreid_ssl.models.exported import as_pixels

    height, width = network.spec.img_size
    size = (height + 31, width // 2 + 7) if asked.resize else (height, width)
    random = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=random)
    return as_pixels(images, asked.input, network.spec)


def _parity(network: "ExportedNetwork", program: Any, asked: Export) -> str:
    """How far the program's features are from the network's, for one image and for several.

    Raises:
        UserError: farther than ``PARITY``.
    """
    import torch

    worst = 0.0
    for count in (1, 3):
        images = _noise(network, count, asked)
        with torch.inference_mode():
            worst = max(worst, float((program(images) - network(images)).abs().max()))
    if not worst < PARITY:
        raise UserError(
            f"{asked.files[-1]}: not written: its features differ from the network's by "
            f"{worst:.2g}, and {PARITY:g} is allowed; try the other format, or other versions of "
            "torch and onnx"
        )
    return f"features differ from the network's by {worst:.1e} at most (float32, random images)"


def _images(model: "Backbone", asked: Export) -> "tuple[Tensor, Tensor]":
    """Two sets of uint8 images (N, 3, H, W) of the pool: to find ranges on, and to compare on."""
    import numpy as np
    import torch

    named = asked.images or trained_pool(model.spec)
    pool = data.open_pool(named)
    if len(pool) < 2:
        raise UserError(f"{named}: has one image, and two are needed: give a larger pool")
    count = min(asked.num_images, len(pool) // 2)
    chosen = np.random.default_rng(0).choice(len(pool), 2 * count, replace=False)
    size, way = model.spec.img_size, model.spec.interpolation
    found = data.image_loader(pool, size, _BATCH, 0, chosen, interpolation=way)
    images = torch.cat([batch["images"] for batch in found])
    return images[:count], images[count:]


def _likeness(original: "Backbone", running: "OnnxNetwork", images: "Tensor", asked: Export) -> str:
    """The cosines between the network's features and the program's, of uint8 images."""
    import torch
    from torch.nn import functional as F

    with torch.inference_mode():
        cosines = torch.cat(
            [F.cosine_similarity(original(part), running(part)) for part in images.split(_BATCH)]
        )
    if not cosines.isfinite().all():
        raise UserError(f"{asked.files[-1]}: not written: its features are not finite")
    return (
        f"cosine to the float32 features of {counted(len(cosines), 'image')}: mean "
        f"{cosines.mean():.5f}, lowest {cosines.min():.5f} ({asked.precision})"
    )


def _accuracy(original: "Backbone", running: "OnnxNetwork", asked: Export) -> list[str]:
    """mAP of the network and of the program on a labelled set, where one is named."""
    if asked.data is None:
        return []
    protocol = data.open_reid(asked.data, asked.root, asked.pattern, purpose="test")
    labels = data.reid.labels(protocol)
    results = {}
    for name, network in (("network, float32", original), (f"program, {asked.precision}", running)):
        sides = retrieval.embed_protocol(network, protocol, batch_size=_BATCH)
        results[name] = retrieval.evaluate(sides[0], *labels[0], sides[1], *labels[1])
    return [protocol.describe(), retrieval.format_table(results)]


def _format_of(output: Path, asked: str | None) -> str:
    """The format that a file is named by, which must be the one asked for."""
    if asked not in (None, *_FORMATS):
        raise UserError(f"--format {asked}: choose {' or '.join(_FORMATS)}")
    named = output.suffix.removeprefix(".").lower()
    if named not in _FORMATS or asked not in (None, named):
        wanted = f".{asked}" if asked else " or ".join(f".{name}" for name in _FORMATS)
        raise UserError(f"{output}: name the file {output.stem}{wanted}, after its format")
    return named


_PLACES = ("files", "weights", "run")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, export, and say what was measured."""
    options = command.options(Export, "python -m transreid_ssl.export", arguments)
    if not 0 < len(options.files) < 3:
        raise UserError(
            f"{len(options.files)} files are named: name the one to write, such as backbone.pt2, "
            "and if you like before it the weights"
        )
    *weights, output = options.files
    if weights and options.weights:
        raise UserError(f"{weights[0]} and --weights {options.weights}: name one of them")
    named = next(iter(weights), options.weights)
    _format_of(Path(output), options.format)  # refused before weights are looked for
    check_outputs(output, keep=not options.overwrite)
    given = {name: value for name, value in vars(options).items() if name not in _PLACES}
    print(*export(find_run(named, options.run), output, **given), sep="\n")
    print(f"written to {output}")


if __name__ == "__main__":
    command.run(main)
