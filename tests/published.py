"""The parameters that the published programs' reference values were computed with."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reference import normal

SHAPES = json.loads((Path(__file__).parent / "reference_shapes.json").read_text())
"""Network -> parameter name -> shape; ``blocks.*`` stands for each of the twelve blocks."""


def shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Every parameter of the published network, with its shape."""
    result = {}
    for name, shape in SHAPES[network].items():
        blocks = range(12) if "*" in name else [0]
        result |= {name.replace("*", str(block)): tuple(shape) for block in blocks}
    return result


def parameter(name: str, shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """The value of one parameter, made from its name."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    value = generator.standard_normal(shape).astype(np.float32) * np.float32(0.05)
    return torch.from_numpy(1 + abs(value) if name.endswith("running_var") else value)


def state(network: str) -> dict[str, Tensor]:
    """The whole state dict of a published network."""
    return {name: parameter(name, shape) for name, shape in shapes(network).items()}


def inputs(tag: str, shape: tuple[int, ...]) -> Tensor:
    """An input of the reference values."""
    return torch.from_numpy(normal(tag, shape))
