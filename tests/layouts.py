"""Weights as other programs lay them out."""

from collections.abc import Mapping

from torch import Tensor


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with ``prefix`` before every name."""
    return {prefix + name: value for name, value in state.items()}
