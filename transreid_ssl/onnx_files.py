"""ONNX files: written, made smaller, and run by onnxruntime.

``pip install 'transreid_ssl[export]'`` brings what is imported here, by the functions that use it.
"""

import contextlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transreid_ssl.errors import UserError, brief
from transreid_ssl.models import BackboneSpec
from transreid_ssl.models.exported import ExportedNetwork, Pixels, as_pixels

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
SPEC, PIXELS = "transreid_ssl", "transreid_ssl_input"
"""Keys of a file's metadata: the header of the weights, and what kind of images it takes."""
OPSET = 18


def require_packages() -> None:
    """Raise ``UserError`` unless all is there that writes and runs ONNX."""
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(
            f"ONNX needs the package {lacking[0]}: pip install 'transreid_ssl[export]', or write "
            "a .pt2 file"
        )


def write_onnx(network: ExportedNetwork, program: Any, path: Path) -> None:
    """Write a ``torch.export`` program of ``network`` as one ONNX file with its spec inside."""
    import onnx

    with _quiet():
        made = torch.onnx.export(
            program, input_names=["images"], output_names=["features"], opset_version=OPSET,
            verbose=False,
        )  # fmt: skip
    model = made.model_proto
    _name_dimensions(model.graph)
    told = {SPEC: network.spec.to_json(), PIXELS: network.pixels}
    onnx.helper.set_model_props(model, told)
    onnx.save_model(model, str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence of libraries that tell at length what they optimise, and warn of their own parts."""
    loggers = [logging.getLogger(name) for name in ("", "onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _name_dimensions(graph: Any) -> None:
    """Let the sizes that may change be called by what they are, and not s34 and s14."""
    names = dict(zip(("batch", "channels", "height", "width"), _shape(graph.input[0])))
    words = {entry.dim_param: word for word, entry in names.items() if entry.dim_param}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for entry in _shape(value):
            if entry.dim_param in words:
                entry.dim_param = words[entry.dim_param]


def _shape(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


class OnnxNetwork(nn.Module):
    """An ONNX file as a network that this package embeds images with, on the CPU.

    uint8 images (B, 3, H, W) -> features float32 (B, D), whatever the file itself takes.

    Raises:
        UserError: a file that onnxruntime cannot run, or that is not of this package.
    """

    spec: BackboneSpec
    pixels: Pixels
    session: Any

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            told = self.session.get_modelmeta().custom_metadata_map
            self.spec, self.pixels = BackboneSpec.from_json(told[SPEC]), told[PIXELS]
        except KeyError as error:
            raise UserError(
                f"{path}: was not written by this package; give one that its export wrote"
            ) from error
        except Exception as error:  # onnxruntime's own have no common base
            raise UserError(f"{path}: onnxruntime cannot run it ({brief(error)})") from error
        self.register_parameter("place", nn.Parameter(torch.zeros(()), requires_grad=False))

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        """Features of uint8 images; there are no cameras."""
        return self.run(as_pixels(images, self.pixels, self.spec))

    def run(self, images: Tensor) -> Tensor:
        """Features of images as the file itself takes them."""
        (features,) = self.session.run(None, {"images": images.numpy()})
        return torch.from_numpy(features)


def quantise(source: Path, target: Path, batches: Sequence[Tensor], pixels: str) -> None:
    """Write ``source``, a float32 file, with weights and activations of 8 bits.

    Ranges of activations are those seen on ``batches`` of uint8 images. Convolutions and products
    with weights are made so; attention's own products, norms and softmax stay in float32.
    """
    from onnxruntime import quantization

    spec = BackboneSpec.from_json(_metadata(source)[SPEC])
    given = ({"images": as_pixels(batch, pixels, spec).numpy()} for batch in batches)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        quantization.shape_inference.quant_pre_process(
            str(source), str(prepared), skip_symbolic_shape=True
        )
        quantization.quantize_static(
            str(prepared), str(target), _Reader(given), per_channel=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
    _copy_metadata(source, target)


class _Reader:
    """Batches as onnxruntime asks for them."""

    def __init__(self, batches: Iterator[Mapping[str, np.ndarray]]) -> None:
        self._batches = batches

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self._batches, None)


def _metadata(path: Path) -> dict[str, str]:
    import onnx

    return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}


def _copy_metadata(source: Path, target: Path) -> None:
    import onnx

    model = onnx.load(str(target))
    onnx.helper.set_model_props(model, _metadata(source))
    onnx.save_model(model, str(target))
