"""Every option that a message for users names is one of a recipe or of a command."""

import ast
import dataclasses
import importlib
import re
from collections.abc import Iterator

import launch
from transreid_ssl.__main__ import COMMANDS
from transreid_ssl.training.config import as_plain

OPTION = re.compile(r"--([a-z_]\w*(?:\.\w+)*)")


def messages() -> Iterator[tuple[str, str]]:
    """The texts within each call of UserError in the package and the recipes, and their files."""
    folders = launch.ROOT / "transreid_ssl", launch.ROOT / "recipes"
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError":
                texts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
                yield path.name, " ".join(text for text in texts if isinstance(text, str))


def dotted(settings: dict, prefix: str = "") -> Iterator[str]:
    """The names of nested settings."""
    for name, value in settings.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")


def options() -> set[str]:
    """What recipes and commands understand."""
    recipes = [path.stem for path in (launch.ROOT / "recipes").glob("*.py")]
    found = {
        name for recipe in recipes for name in dotted(as_plain(launch.recipe(recipe).Config()))
    }
    rooms = {"cfs", "data", "report"}
    modules = [f"{name}.__main__" if name in rooms else name for name in COMMANDS]
    for module in (importlib.import_module(f"transreid_ssl.{name}") for name in modules):
        kinds = (kind for kind in vars(module).values() if dataclasses.is_dataclass(kind))
        found |= {field.name for kind in kinds for field in dataclasses.fields(kind)}
    return found | {"config", "help"}


def test_every_setting_that_a_message_names_exists():
    named = [(file, name) for file, text in messages() for name in OPTION.findall(text)]
    assert len(named) > 30
    known = options()
    assert not [(file, name) for file, name in named if name not in known]
