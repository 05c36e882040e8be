"""The README's commands: every option they use exists, and every file they name is there."""

import itertools
import re
import shlex
from functools import cache

import pytest

import launch
from transreid_ssl.__main__ import KINDS

README = (launch.ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """The shell commands of the README, each as words, without comments."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in lines.splitlines()]
    split = [" ".join(line).split(" && ") for line in words if line]
    return [part.split() for line in split for part in line]


@cache
def help_text(*program: str) -> str:
    return launch.run(*program)


def program_of(words: list[str]) -> list[str]:
    """What to run, and the help to ask for, of a command that is this project's own."""
    verbs = itertools.takewhile(str.isalnum, words[1:3])
    training = words[1] in KINDS
    return ["-m", "transreid_ssl", *verbs, "--help-all" if training else "--help"]


OURS = [words for words in commands() if words[0] == "transreid-ssl"]


def test_the_readme_shows_the_two_first_commands_and_the_whole_path():
    text = [" ".join(words) for words in commands()]
    assert text[:4] == [
        "pip install .",
        "transreid-ssl pretrain dino",
        "pip install .[test]",
        "pytest -n 2 --dist loadfile",
    ]
    assert len(OURS) >= 12


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_option_of_a_command_exists(words):
    text = help_text(*program_of(words))
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    missing = [option for option in options if not re.search(rf"{option}\b", text)]
    assert not missing


def test_every_settings_file_is_there_and_told_of():
    there = {path.name for path in (launch.ROOT / "recipes" / "configs").glob("*.yaml")}
    named = set()
    for pattern in re.findall(r"`([\w{},]+\.yaml)`", README):
        names = [""]
        for piece in re.split(r"(\{[^}]*\})", pattern):
            choices = piece.strip("{}").split(",") if piece.startswith("{") else [piece]
            names = [name + choice for name in names for choice in choices]
        named |= set(names)
    assert named - {"config.yaml"} == there
    for path in re.findall(r"recipes/configs/([\w]+\.yaml)", README):
        assert path in there
