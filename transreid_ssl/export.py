"""Exporting a backbone to run without this package: a torch.export program, or ONNX.

    python -m transreid_ssl.export backbone.pt2

The program takes uint8 images (B, 3, height, width), any B, and gives float32 features (B, D),
of length 1: normalisation is inside, so that there is nothing left to get wrong.
"""

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transreid_ssl import command
from transreid_ssl.errors import UserError
from transreid_ssl.features import find_run
from transreid_ssl.files import atomic_path
from transreid_ssl.outputs import check_outputs

_FORMATS = ("pt2", "onnx")


@dataclass(frozen=True)
class Export:
    """Export a backbone as a program that runs without this package.

    Example: ``python -m transreid_ssl.export backbone.pt2``, or of other weights than those of the
    newest finished run in outputs/ ``python -m transreid_ssl.export weights.safetensors
    backbone.pt2``.

    Args:
        files: The file to write; before it weights may be named: a file, a folder or a Hugging
            Face id.
        run: The run whose weights to take: the name of its folder in outputs/, or its path.
        format: pt2 or onnx; by default what the output is named.
    """

    files: Sequence[str] = field(
        default_factory=list,
        metadata={
            "positional": True, "nargs": "*", "metavar": "[WEIGHTS] OUTPUT",
            "help": "the file to write, and before it the weights to take (newest in outputs/)",
        },
    )  # fmt: skip
    run: str | None = None
    format: Literal["pt2", "onnx"] | None = None


def export(weights: str | Path, output: str | Path, *, format: str | None = None) -> None:
    """Write the backbone of a weights file as a program of its own, for any batch size.

    Args:
        format: ``pt2`` (``torch.export.load(path).module()``) or ``onnx``; that of the output's
            name when None.

    Raises:
        UserError: weights that cannot be read, a network that needs cameras, no ``onnx`` package,
            an output that is named otherwise, or is the weights file.
    """
    import torch

    from transreid_ssl.models import UnitFeatures, find_weights, load_backbone

    format = _format_of(Path(output), format)
    check_outputs(output, inputs=[find_weights(weights)])
    if format == "onnx":
        _require_onnx()
    model = load_backbone(weights)
    if model.spec.num_cameras:
        raise UserError(f"{weights}: needs the camera of each image, which cannot be exported")
    images = torch.zeros(2, 3, *model.spec.img_size, dtype=torch.uint8)
    batch = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(UnitFeatures(model).eval(), (images,), dynamic_shapes=batch)
    with atomic_path(output) as temporary:
        if format == "pt2":
            # Through memory: on a full disk torch's own writer ends the process.
            content = io.BytesIO()
            torch.export.save(program, content)
            temporary.write_bytes(content.getbuffer())
        else:
            torch.onnx.export(program, f=str(temporary), external_data=False)


def _format_of(output: Path, asked: str | None) -> str:
    """The format that a file is named by, which must be the one asked for."""
    if asked not in (None, *_FORMATS):
        raise UserError(f"--format {asked}: choose {' or '.join(_FORMATS)}")
    named = output.suffix.removeprefix(".").lower()
    if named not in _FORMATS or asked not in (None, named):
        wanted = f".{asked}" if asked else " or ".join(f".{name}" for name in _FORMATS)
        raise UserError(f"{output}: name the file {output.stem}{wanted}, after its format")
    return named


def _require_onnx() -> None:
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--format onnx: install the package {package}, or use --format pt2")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and export."""
    options = command.options(Export, "python -m transreid_ssl.export", arguments)
    if not 0 < len(options.files) < 3:
        raise UserError(
            f"{len(options.files)} files are named: name the one to write, such as backbone.pt2, "
            "and if you like before it the weights"
        )
    *weights, output = options.files
    named = next(iter(weights), None)
    _format_of(Path(output), options.format)  # refused before weights are looked for
    export(find_run(named, options.run), output, format=options.format)
    print(f"written to {output}")


if __name__ == "__main__":
    command.run(main)
