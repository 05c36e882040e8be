"""The pages: their commands and code run, their links lead somewhere, and they leave nothing out."""

import ast
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
from transreid_ssl.__main__ import COMMANDS, KINDS

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


def test_every_command_runs_unless_it_is_marked(folder):
    done = set()
    for block, words in COMMANDS_OF_PAGES:
        line = " ".join(words)
        if block.needs is None and line not in done:
            try:
                pages.run(words, folder)
            except AssertionError as error:
                pytest.fail(f"{block.page}: {line}\n{error}")
            done.add(line)
    assert len(done) >= 25
    code = [(b.page, b.text) for b in pages.blocks("python") if not (b.needs or b.file)]
    for page in dict.fromkeys(page for page, _ in code):
        log = folder / "log.txt"
        pieces = [(name, text) for name, text in code if name == page]
        process = launch.start(pages.execute, pieces, folder, log)
        process.join(launch.PATIENCE)
        assert process.exitcode == 0, f"{page}: {log.read_text()}"
