"""Self-supervised pre-training, data selection, fine-tuning and evaluation for person ReID.

Importing the package makes its networks known to timm; its rooms (``transreid_ssl.retrieval`` …)
are imported when they are first used.
"""

from importlib import import_module
from types import ModuleType

from transreid_ssl.errors import UserError
from transreid_ssl.models import load_backbone

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load_backbone"]

_ROOMS = ("cfs", "data", "finetune", "models", "pretrain", "report", "retrieval", "training")


def __getattr__(name: str) -> ModuleType:
    # Lazy, because a room that is also a program (python -m) must not be imported before it runs.
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
