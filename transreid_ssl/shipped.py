"""The recipes that come with the package: in the folder beside it, or within it once installed."""

import ast
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

from transreid_ssl.errors import UserError
from transreid_ssl.words import nearest

KINDS = ("pretrain", "finetune")
"""A recipe in the file METHOD_KIND.py is the training ``KIND METHOD``."""
ALONE = "distill"
"""The recipe that has no method in its name."""


def folder() -> Path:
    """Where the recipes are: ``transreid_ssl/recipes`` in a wheel, ``recipes`` in the source."""
    package = Path(__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipes() -> dict[str, Path]:
    """The recipes' files by their names, such as "dino_pretrain", pre-training first."""
    found = {path.stem: path for path in folder().glob("[!_]*.py")}
    kinds = {kind: place for place, kind in enumerate(KINDS)}
    order = {name: kinds.get(name.rpartition("_")[2], len(kinds)) for name in found}
    return dict(sorted(found.items(), key=lambda item: (order[item[0]], item[0])))


def as_words(name: str) -> str:
    """How a recipe's training is started: "pretrain dino" for "dino_pretrain"."""
    method, _, kind = name.rpartition("_")
    return f"{kind} {method}".rstrip()


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that name a training, ``KIND METHOD`` or ``ALONE``, and what follows them.

    Raises:
        UserError: of this kind there is no such method.
    """
    kind, *rest = words
    if kind == ALONE:
        return [kind], rest
    method, *options = rest or [""]
    methods = [name.rpartition("_")[0] for name in recipes() if name.endswith(kind)]
    if method not in methods:
        raise UserError(
            f"{' '.join([kind, *rest[:1]])}: give one of {', '.join(methods)}"
            + nearest(method, methods)
        )
    return [kind, method], options


def sentence(path: Path) -> str:
    """The first line of what a recipe says of itself; it is not imported."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return (text or "").partition("\n")[0]


def load_recipe(name: str) -> ModuleType:
    """The recipe in the file ``name``, which ends in ".py", or the shipped one of this name.

    Those that are shipped are named as they are started, "pretrain dino", or as their files are,
    "dino_pretrain".

    Raises:
        UserError: there is none.
    """
    path = (
        Path(name) if name.endswith(".py") else folder() / f"{'_'.join(reversed(name.split()))}.py"
    )
    if not path.is_file():
        known = ", ".join(map(as_words, recipes()))
        raise UserError(
            f"{name}: there is no such training; name one of {known}, or a recipe's file"
            + nearest(name, [*map(as_words, recipes()), *KINDS, *recipes()])
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    if not is_dataclass(getattr(module, "Config", None)) or not hasattr(module, "DEMO"):
        raise UserError(f"{path}: is no recipe, as it has no Config and no DEMO")
    return module
