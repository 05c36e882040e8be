"""Self-supervised pre-training, data selection, fine-tuning and evaluation for person ReID.

What it holds is imported when it is first used: the rooms (``transreid_ssl.retrieval`` …), and the
networks, which ``transreid_ssl.models`` makes known to timm.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transreid_ssl.errors import UserError

if TYPE_CHECKING:
    from transreid_ssl.models import load_backbone

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load_backbone"]

_ROOMS = ("cfs", "data", "finetune", "models", "pretrain", "report", "retrieval", "training")


def __getattr__(name: str) -> Any:
    # Lazy, because torch and timm take seconds, and because a room that is also a program
    # (python -m) must not be imported before it runs.
    if name == "load_backbone":
        return import_module(f"{__name__}.models").load_backbone
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
