"""Choosing pre-training data by the catastrophic forgetting score (CFS)."""

from importlib import import_module
from typing import Any

__all__ = ["import_list", "score", "select"]

_HOME = {"import_list": "subset", "score": "scoring", "select": "subset"}


def __getattr__(name: str) -> Any:
    # Lazy, so that --help and the selection commands do not wait for torch.
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
