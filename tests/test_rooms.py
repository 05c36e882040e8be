"""The floors of the house: no import runs up, and none goes round in a circle."""

import ast
import importlib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from types import ModuleType

import pytest

import launch

PACKAGE = "transreid_ssl"
BOTTOM = {
    "errors", "files", "logs", "reading", "tables", "parts", "outputs", "command", "processes",
    "terms", "palette", "launching", "shipped", "words", "progress", "complaints",
    "stray_words", "seen", "machine",
    "short_help", "hints",
}  # fmt: skip
FLOORS = [
    BOTTOM,
    {"models", "data", "retrieval"},
    {"training"},
    {"pretrain", "finetune", "cfs", "report"},
]
APART = FLOORS[1]  # these do not know one another either
EMBEDDING = {f"{PACKAGE}.retrieval.{name}" for name in ("embed", "embedder")}
"""They take a network and images."""
TOP = len(FLOORS)  # command lines, and what they share


def modules() -> dict[str, ast.Module]:
    """The modules of the package by their dotted names."""
    files = {
        ".".join(path.relative_to(launch.ROOT).with_suffix("").parts): path
        for path in (launch.ROOT / PACKAGE).rglob("*.py")
    }
    return {
        name.removesuffix(".__init__"): ast.parse(path.read_text(encoding="utf-8"))
        for name, path in files.items()
    }


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports, anywhere in it: modules, and names that may be modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def attached(package: str) -> Iterator[str]:
    """The modules that its names are imported from when they are first used, of its stub."""
    stub = launch.ROOT.joinpath(*package.split("."), "__init__.pyi")
    for node in ast.walk(ast.parse(stub.read_text(encoding="utf-8"))) if stub.exists() else ():
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def module_graph(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """What each module imports of the others; a name that is no module is of its package."""
    graph = {}
    for module, tree in trees.items():
        names = {*imported(tree), *(f"{module}.{name}" for name in attached(module))}
        found = {name if name in trees else name.rpartition(".")[0] for name in names}
        graph[module] = (found & trees.keys()) - {module}
    return graph


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """What each module of the package imports of the others."""
    return module_graph(modules())


def room(module: str) -> str:
    """The part of a module's name that floors are told by; "" for the package itself."""
    return "".join(module.split(".")[1:2])


def floor(module: str) -> int:
    """On which floor a module is; the package itself is just above the networks it registers."""
    if module == PACKAGE:
        return 1
    if module.endswith(".__main__"):
        return TOP
    return next((number for number, rooms in enumerate(FLOORS) if room(module) in rooms), TOP)


def test_every_room_has_its_floor(graph):
    assert set().union(*FLOORS) <= {room(module) for module in graph}


def test_no_import_runs_up(graph):
    up = [(a, b) for a, found in graph.items() for b in found if floor(b) > floor(a)]
    assert not up


def test_models_images_and_retrieval_do_not_know_one_another(graph):
    known = [
        (a, b)
        for a, found in graph.items()
        for b in found
        if room(a) != room(b) and {room(a), room(b)} <= APART and a not in EMBEDDING
    ]
    assert not known


def test_no_import_goes_round_in_a_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_circle_within_functions_would_be_found():
    sources = {"p.a": "def f():\n    from p import b", "p.b": "from p.a import f"}
    graph = module_graph({name: ast.parse(text) for name, text in sources.items()})
    assert graph == {"p.a": {"p.b"}, "p.b": {"p.a"}}
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()


def taken(tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """Dotted names that begin with a room that the module has imported: ("retrieval", "embed")."""
    rooms = {name.rpartition(".")[2] for name in imported(tree) if name.count(".") == 1}
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts, node = [node.attr, *parts], node.value
        if parts and isinstance(node, ast.Name) and node.id in rooms:
            yield node.id, *parts


def test_what_is_taken_from_a_room_is_there():
    """Rooms import what they hold when it is used: a wrong name would be found by a user."""
    package, checked = importlib.import_module(PACKAGE), 0
    for module, tree in modules().items():
        for room, *parts in taken(tree):
            found = getattr(package, room, None)
            for part in parts if isinstance(found, ModuleType) else ():
                assert hasattr(found, part), f"{module}: {room}.{'.'.join(parts)}"
                found, checked = getattr(found, part), checked + 1
                if not isinstance(found, ModuleType):
                    break
    assert checked > 100
