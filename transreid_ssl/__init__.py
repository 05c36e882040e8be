"""Self-supervised pre-training, data selection, fine-tuning and evaluation for person ReID.

What it holds is imported when it is first used: the rooms (``transreid_ssl.retrieval`` …), and the
networks, which ``transreid_ssl.models`` makes known to timm.
"""

import logging
import os
import sys

import lazy_loader

from transreid_ssl.machine import loaded_libraries

__version__ = "0.1.0"

# Torch's threads sleep soon where they wait for one another, instead of asking again and again for
# milliseconds, so that all cores can be theirs although workers use some (training/cpu.py). GNU's
# OpenMP, which torch has on Linux, reads this when it is loaded: it stays unset where that has been
# already, so that training/cpu.py can tell, and where somebody chose otherwise.
if sys.platform == "linux" and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    if "torch" not in sys.modules and "libgomp.so" not in loaded_libraries():
        os.environ["GOMP_SPINCOUNT"] = "1000"

# A library prints nothing of itself; see transreid_ssl/logs.py.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Lazy, because torch and timm take seconds, and because a room that is also a program (python -m)
# must not be imported before it runs. The stub beside this file says what there is, for lazy_loader
# as for type checkers; so do those of the rooms.
_find, *_ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["Embedder", "UserError", "__version__", "load_backbone", "load_recipe"]
_GUESSED = {
    "cluster": "retrieval.cluster(features)",
    "embed": "Embedder(weights)(images)",
    "evaluate": "retrieval.evaluate(features, identities, cameras, …)",
    "from_pretrained": "load_backbone(weights)",
    "search": "Embedder(weights).search(query, gallery)",
    "train": 'load_recipe("dino_pretrain").main(["--data.pool=CROPS"])',
    "verify": "Embedder(weights).compare(a, b)",
}
"""What there is for names that one may expect: commands are programs, and no functions."""


def __getattr__(name: str) -> object:
    if name in _GUESSED:
        raise AttributeError(f"No transreid_ssl attribute {name}; take {__name__}.{_GUESSED[name]}")
    return _find(name)
