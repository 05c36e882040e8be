"""Self-supervised pre-training, data selection, fine-tuning and evaluation for person ReID.

What it holds is imported when it is first used: the rooms (``transreid_ssl.retrieval`` …), and the
networks, which ``transreid_ssl.models`` makes known to timm.
"""

import logging

import lazy_loader

__version__ = "0.1.0"

# A library prints nothing of itself; see transreid_ssl/logs.py.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Lazy, because torch and timm take seconds, and because a room that is also a program (python -m)
# must not be imported before it runs. The stub beside this file says what there is, for lazy_loader
# as for type checkers; so do those of the rooms.
__getattr__, *_ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["Embedder", "UserError", "__version__", "load_backbone"]
