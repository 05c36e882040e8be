"""The pages: commands and code in them run, links lead somewhere, and nothing is left out."""

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache

import cv2
import pytest

import launch
import pages
from pages import gather
from transreid_ssl import data
from transreid_ssl.__main__ import ALONE, COMMANDS, KINDS

COMMANDS_OF_PAGES = [
    (block, words)
    for block in pages.blocks("sh", "bash", "console")
    for words in block.commands()
    if pages.our_words(words) is not None or words[0] == "python"
]
INLINE = [(page, words) for page in gather.pages() for words in pages.inline_commands(page)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all pages' commands run: a query and a gallery, and what the commands before left."""
    folder = tmp_path_factory.mktemp("user")
    pool = data.open_pool("demo:identities=10,images=4,height=32,width=16")
    (folder / "gallery").mkdir()
    for number, image in enumerate(data.decoded(pool, range(len(pool)))):
        cv2.imwrite(str(folder / "gallery" / f"{number:02d}.png"), image)
    shutil.copy(folder / "gallery/00.png", folder / "query.jpg")
    (folder / "recipes").symlink_to(launch.ROOT / "recipes")  # as in the folder of the source
    for block in pages.blocks("python", "yaml"):
        if block.file:
            (folder / block.file).write_text(block.text)
    return folder


def test_every_command_and_piece_of_code_runs_unless_it_is_marked(folder):
    """Of the pages in their order and then of the notebook; each command once."""
    done = set()
    for block, words in COMMANDS_OF_PAGES:
        line = " ".join(pages.our_words(words) or words)
        if not (block.needs or pages.placeholder(words) or line in done):
            try:
                pages.run(words, folder)
            except AssertionError as error:
                pytest.fail(f"{block.page}: {' '.join(words)}\n{error}")
            done.add(line)
    assert len(done) >= 25
    code = [(b.page, b.text) for b in pages.blocks("python") if not (b.needs or b.file)]
    for cell in pages.notebook_cells():
        if cell.startswith("!"):
            line = " ".join(cell.replace("\\\n", " ").split())
            assert line.removeprefix("!transreid-ssl ") in done, "no page has this command"
        elif not cell.startswith("%pip"):
            code.append((pages.NOTEBOOK, cell))
    for page in dict.fromkeys(page for page, _ in code):
        log = folder / "log.txt"
        pieces = [(name, text) for name, text in code if name == page]
        process = launch.start(pages.execute, pieces, folder, log)
        process.join(launch.PATIENCE)
        assert process.exitcode == 0, f"{page}: {log.read_text()}"


@cache
def help_text(*program: str) -> str:
    return launch.run("-m", "transreid_ssl", *program)


def test_every_option_of_a_command_exists():
    lines = [(block.page, pages.our_words(words)) for block, words in COMMANDS_OF_PAGES]
    lines += [(page, words[1:]) for page, words in INLINE]
    for page, words in lines:
        if not words or words[0].isupper():
            continue
        assert words[0] in {*COMMANDS, *KINDS, ALONE}, f"{page}: {' '.join(words)}"
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        verbs = words[: 2 if words[0] in {*KINDS, "data", "cfs", "weights", "report"} else 1]
        if not options or words[0] == "plan" or not all(v.isalnum() and v.islower() for v in verbs):
            continue
        text = help_text(*verbs, "--help-all")
        missing = [option for option in options if not re.search(rf"{option}\b", text)]
        assert not missing, f"{page}: {' '.join(words)}"


def test_the_readme_is_a_screen_of_start():
    text = pages.read("README.md")
    first = [" ".join(words) for words in pages.blocks("sh", page="README.md")[0].commands()]
    assert first[:3] == [
        "pip install .",
        "transreid-ssl pretrain dino",
        "transreid-ssl finetune supervised",
    ]
    assert len(text.splitlines()) < 80


def test_links_lead_to_files_that_are_there():
    for page in gather.pages():
        home = (launch.ROOT / page).parent
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", pages.read(page)):
            if "://" not in target:
                assert (home / target).exists(), f"{page}: {target}"


def test_every_page_can_be_reached_from_the_readme():
    seen, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", pages.read(page)):
            found = ((launch.ROOT / page).parent / target).resolve()
            if found.is_relative_to(launch.ROOT):
                name = found.relative_to(launch.ROOT).as_posix()
                waiting += [name] if name not in seen else []
    assert "recipes/guides/errors.md" in seen
    alone = {page for page in gather.pages() if page not in seen}
    assert not alone, "the site shows them, but no page leads there"


def settings_files(text: str) -> set[str]:
    """The names of settings files in backquotes, those in braces written out."""
    named = set()
    for pattern in re.findall(r"`([\w{},]+\.yaml)`", text):
        names = [""]
        for piece in re.split(r"(\{[^}]*\})", pattern):
            choices = piece.strip("{}").split(",") if piece.startswith("{") else [piece]
            names = [name + choice for name in names for choice in choices]
        named |= set(names)
    return named


def test_every_settings_file_is_there_and_told_of():
    there = {path.name for path in (launch.ROOT / "recipes" / "configs").glob("*.yaml")}
    assert settings_files(pages.read("recipes/README.md")) <= there
    texts = "\n".join(map(pages.read, gather.pages()))
    assert there <= settings_files(texts)
    for path in re.findall(r"recipes/configs/([a-z]\w*\.yaml)", texts):
        assert path in there


MENDS = re.compile(
    r"\b(ask|build|calibrate|check|choose|convert|copy|cut|download|evaluate|expected|give|install|"
    r"leave|lower|make|move|must|name|needs|number|pack|plan|put|raise|refused|remove|rename|repair|"
    r"replace|run|save|score|set|shorten|take|train|try|unpack|upgrade|use|wait|whiten|write)\b|…$"
)
"""A message with one of these says what to do; so does one that ends in what is filled in."""


def test_every_error_message_has_its_mend():
    """In its own words, or by a row of the page on errors; and no row is of a message that went."""
    messages = [m for m in gather.messages() if re.search(r"\w", m.text)]
    assert len(messages) > 300
    rows = gather.mended()
    without = [
        f"{m.file}:{m.line}: {m.text}"
        for m in messages
        if not MENDS.search(m.text) and not any(row.search(m.text) for row in rows)
    ]
    assert not without, "add what to do to the message, or a row to recipes/guides/errors.md"
    said = [m.text for m in messages]
    for path in (launch.ROOT / "transreid_ssl").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        said += [gather._text(n) for n in nodes if isinstance(n, ast.Constant | ast.JoinedStr)]
    whole = "\n".join(said)
    assert not [row.pattern for row in rows if not row.search(whole)]
    listed = gather.list_of_errors()
    assert all(m.text in listed for m in messages)


def test_a_message_is_read_as_it_is_written():
    tree = ast.parse("f'{a}: ' + 'gone (' f'{b}{c}); ' f'give {d}'", mode="eval").body
    assert gather._text(tree) == "…: gone (…); give …"
    several = 'f\'{a}: {part_of(n, all, "name", verb="is/are", its="its")} not there\''
    assert gather._text(ast.parse(several, mode="eval").body) == "…: … of its … names are not there"
    several = 'f\'{counted(n, "query", "queries")} for {counted(m, "set")}\''
    assert gather._text(ast.parse(several, mode="eval").body) == "… queries for … sets"
    (pattern,) = [row for row in gather.mended() if row.pattern.startswith("needs")]
    assert pattern.search("asks for os.system, and a list of names needs no code; refused")


def test_the_documents_build_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path / "site",
         "-f", launch.ROOT / "recipes/guides/mkdocs.yml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").rglob("*.html")}
    assert len(made) >= len(gather.pages()) + len(gather.public_names())
    assert list((tmp_path / "site").glob("assets/stylesheets/main.*.css"))
    errors = (tmp_path / "site/recipes/guides/errors.html").read_text(encoding="utf-8")
    assert "belongs to a run with other settings" in errors.split("Every message")[-1]
    api = (tmp_path / "site/api/pretrain.html").read_text(encoding="utf-8")
    assert 'id="transreid_ssl.pretrain.dino.DINOLoss"' in api
