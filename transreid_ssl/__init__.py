"""Self-supervised pre-training, data selection, fine-tuning and evaluation for person ReID."""

from typing import Any

from transreid_ssl.errors import UserError

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load_backbone"]


def __getattr__(name: str) -> Any:
    # Lazy, so that light commands do not pay for importing what they do not use.
    if name == "load_backbone":
        from transreid_ssl.models import load_backbone

        return load_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
