"""What ``--help`` and ``--help-all`` say of every option of every command and training."""

import argparse
import sys

import pytest

from transreid_ssl import completion, shipped


def options(parser):
    """The options of a parser and of those within it, with the words before each."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                for words, found in options(inner):
                    yield f"{name} {words}", found
        else:
            yield action.option_strings[-1] if action.option_strings else action.dest, action


def test_every_option_has_words():
    pytest.importorskip("shtab")
    found = [*options(completion.everything()), *options(completion.parser_of(completion.main))]
    names = [name for name, _ in found]
    for name in ("pretrain dino --views.jitter", "finetune usl --augment.flip", "cfs score --pool"):
        assert name in names, "so that this test looks at them"
    assert not [name for name, action in found if not (action.help or "").strip()]


@pytest.mark.parametrize("started", ["python", "bin/transreid-ssl"])
def test_words_have_no_markup_and_name_commands_as_the_user_does(started, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", [started, "…"])
    parser = completion.parser_of(shipped.load_recipe("pretrain dino").main)
    said = " ".join(parser.format_help().split())
    typed = "transreid-ssl" if "/" in started else "python -m transreid_ssl"
    assert said.count("``") == 0
    assert ("python -m" in said) == (started == "python")
    assert f"as {typed}{' ' if '/' in started else '.'}cfs select writes it" in said
