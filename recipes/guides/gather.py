"""The documents as a site: what is a page, in which order, and what is made from the code.

MkDocs calls the functions ``on_…`` (``hooks`` in mkdocs.yml). Pages stand beside what they speak
of; a new Markdown file in one of ``PLACES`` is a page without being listed anywhere. Two things are
made anew from the code at each build: a page for each room's public names, and the list of every
error message.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PLACES = ("transreid_ssl", "recipes", "benchmarks")
"""The folders whose Markdown files are pages, beside README.md and the like at the top."""
FIRST = ("README", "start", "own_crops", "own_cameras", "trackers", "continue", "extend", "faq")
"""The pages of a section that come first; all others follow by name."""
PROJECT = ("datasets", "ethics", "CONTRIBUTING", "CHANGELOG")
LIST_OF_ERRORS = "<!-- list of errors -->"
"""Where the list of messages goes in the page on errors."""
NEEDS = re.compile(r"<!-- needs: ([^>]+) -->")
"""Before a block of commands or code: what it needs that a test does not have."""


def pages(root: Path = ROOT) -> list[str]:
    """The pages as paths below ``root``, in the order of the site."""
    found = list(root.glob("*.md"))
    for place in PLACES:
        found += (root / place).rglob("*.md")
    names = [path.relative_to(root).as_posix() for path in found]
    return sorted(names, key=_place)


def _place(page: str) -> tuple[Any, ...]:
    folder, _, name = page.removesuffix(".md").rpartition("/")
    position = FIRST.index(name) if name in FIRST else len(FIRST)
    return (SECTIONS.index(section(page)), folder, position, name)


SECTIONS = ("Start", "How to", "Recipes", "Rooms", "Measured", "Project")


def section(page: str) -> str:
    """The part of the site that a page is in."""
    name = page.rpartition("/")[2].removesuffix(".md")
    if name in PROJECT:
        return "Project"
    if page.startswith("recipes/guides/") or page.startswith("recipes/launch/"):
        return "Start" if name == "start" else "How to"
    rooms = {"recipes": "Recipes", "transreid_ssl": "Rooms", "benchmarks": "Measured"}
    return rooms.get(page.partition("/")[0], "Start") if "/" in page else "Start"


@dataclass(frozen=True)
class Message:
    """An error that the code tells a user, as it is written there."""

    file: str
    line: int
    text: str
    """With ``…`` for what is filled in."""


def messages(root: Path = ROOT) -> Iterator[Message]:
    """Every ``UserError`` of the package and the recipes, in the order of files and lines."""
    for path in sorted([*(root / "transreid_ssl").rglob("*.py"), *root.glob("recipes/*.py")]):
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and node.args and _name(node.func) == "UserError"
        ]
        for call in sorted(calls, key=lambda call: call.lineno):
            text = " ".join(_text(call.args[0]).split())
            yield Message(path.relative_to(root).as_posix(), call.lineno, text)


def _name(node: ast.expr) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def _text(node: ast.expr) -> str:
    """A message as far as the source tells it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return re.sub("…+", "…", "".join(_text(part) for part in node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return re.sub("…+", "…", _text(node.left) + _text(node.right))
    if isinstance(node, ast.Call) and node.args and _name(node.func) == "join":
        return _text(node.args[0])
    if isinstance(node, ast.FormattedValue):
        node = node.value
    if isinstance(node, ast.Call) and _name(node.func) in ("counted", "part_of"):
        return _of_several(node)
    if isinstance(node, ast.List):
        return "; ".join(_text(part) for part in node.elts)
    return "…"


def _of_several(call: ast.Call) -> str:
    """What ``words.counted`` and ``words.part_of`` say of several."""
    words = call.args[1 if _name(call.func) == "counted" else 2 :]
    if not words or isinstance(words[0], ast.Starred):
        return "…"
    of = _text(words[1]) if len(words) > 1 else f"{_text(words[0])}s"
    if _name(call.func) == "counted":
        return f"… {of}"
    more = {given.arg: _text(given.value) for given in call.keywords}
    its, verb = more.get("its", ""), more.get("verb", "").partition("/")[2]
    return " ".join(filter(None, ["… of", its, "…", of, verb]))


def mended(root: Path = ROOT) -> list[re.Pattern[str]]:
    """What the first column of the tables in the page on errors finds in messages."""
    page = (root / "recipes/guides/errors.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    texts = [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]
    return [re.compile(".*?".join(map(re.escape, text.split("…")))) for text in texts]


def list_of_errors(root: Path = ROOT) -> str:
    """Every message in words, by the room that says it, as Markdown."""
    rooms: dict[str, dict[str, None]] = {}
    for message in messages(root):
        if message.text.strip("… "):  # else it passes on what another place says
            room = message.file.split("/")[1].removesuffix(".py")
            rooms.setdefault(room, {})[message.text] = None
    lines = []
    for room, texts in sorted(rooms.items()):
        lines += ["", f"### `{room}`", ""]
        lines += [f"- {_literal(text)}" for text in sorted(texts)]
    return "\n".join(lines)


def _literal(text: str) -> str:
    """Inline code, whatever backquotes are in it."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def public_names(root: Path = ROOT) -> dict[str, list[str]]:
    """By room the modules' names that it offers: {"pretrain": ["pretrain.dino.DINO", …], …}."""
    found = {}
    for path in sorted((root / "transreid_ssl").glob("*/__init__.py")):
        room, stub = path.parent.name, path.with_suffix(".pyi")
        tree = ast.parse((stub if stub.exists() else path).read_text(encoding="utf-8"))
        names = []
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:  # of .losses, or of this package's
                module = f"{room}.{node.module.rpartition('.')[2]}"
                names += [f"{module}.{alias.name}" for alias in node.names]
        found[room] = sorted(names, key=lambda name: name.rpartition(".")[2].lower())
    return found


def api_page(room: str, names: list[str]) -> str:
    """Markdown from which mkdocstrings makes a page out of docstrings."""
    lines = [f"# transreid_ssl.{room}", ""]
    for name in names:
        lines += [f"::: transreid_ssl.{name}", ""]
    return "\n".join(lines)


def on_config(config: Any) -> Any:
    """Name the pages in their order."""
    parts: dict[str, list[Any]] = {name: [] for name in SECTIONS}
    for page in pages():
        parts[section(page)].append(page)
    api = [{room: f"api/{room}.md"} for room in public_names()]
    config.nav = [{name: found} for name, found in parts.items()] + [{"API": api}]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from the code."""
    from mkdocs.structure.files import File

    for room, names in public_names().items():
        page = File.generated(config, f"api/{room}.md", content=api_page(room, names))
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Say what a block needs, and put in the list of errors."""
    if page.file.src_uri == "recipes/guides/errors.md":
        markdown = markdown.replace(LIST_OF_ERRORS, list_of_errors())
    return NEEDS.sub(r"*Needs \1:*", markdown)
