"""What is wrong with a value is said with the option's name and what it takes, for every type."""

import importlib
from typing import Literal

import pytest

import launch
from transreid_ssl import __main__, command
from transreid_ssl.complaints import takes
from transreid_ssl.errors import UserError
from transreid_ssl.number_types import NonNegativeInt, OpenUnitInterval, PositiveInt
from transreid_ssl.training import parse_config


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (int, "a whole number"),
        (float | None, "a number or null"),
        (bool, "true or false"),
        (bool | Literal["auto"], "true, false or auto"),
        (Literal["no", "bf16", "fp16"] | None, "no, bf16, fp16 or null"),
        (tuple[int, int], "2 whole numbers as [A, B]"),
        (tuple[float, ...], "numbers as [A, …]"),
        (PositiveInt, "a whole number above 0"),
        (NonNegativeInt, "a whole number of 0 or more"),
        (OpenUnitInterval, "a number above 0 and below 1"),
        (str, "text"),
    ],
)
def test_what_a_type_takes(hint, said):
    assert takes(hint) == said


def said_of(recipe, *options):
    module = launch.recipe(recipe)
    with pytest.raises(UserError) as error:
        parse_config(module.Config, module.DEMO, "", options)
    return str(error.value)


def test_a_setting_is_named_as_it_was_given_and_a_file_where_it_is_to_blame(tmp_path):
    assert said_of("dino_pretrain", "--optim.lr", "fast") == "--optim.lr fast: give a number"
    assert said_of("usl_finetune", "--clusters.eps=x") == "--clusters.eps x: give a number"
    assert said_of("dino_pretrain", "--run.epochs=0") == "--run.epochs 0: give 1 or more"
    whole = "--views.erasing 3: give its settings by their names, such as --views.erasing."
    assert said_of("dino_pretrain", "--views.erasing=3").startswith(whole)
    file = tmp_path / "mine.yaml"
    file.write_text("run:\n  epochs: ten\n")
    said = said_of("dino_pretrain", "--config", str(file), "--run.seed=1")
    assert said == f"settings ({file}, command line): --run.epochs ten: give a whole number"
    file.write_text("clusters:\n  eps: 0.5\n")  # of another training
    said = said_of("dino_pretrain", "--config", str(file))
    assert said.startswith(f"settings ({file}, command line): clusters.eps: there is no such")
    file.write_text("run:\n  epoch: 3\n")
    said = said_of("dino_pretrain", "--config", str(file))
    assert "run.epoch: there is no such setting here" in said
    assert said.endswith("; did you mean run.epochs?")


def settings_of_commands():
    """The settings of every command that has its own, by the names that it is called with."""
    for name in __main__.COMMANDS:
        module = importlib.import_module(f"transreid_ssl.{name}")
        for kind in vars(module).values():
            ours = isinstance(kind, type) and kind.__module__ == module.__name__
            if (
                ours
                and "Example:" in (kind.__doc__ or "")
                and hasattr(kind, "__dataclass_fields__")
            ):
                yield kind


def test_no_number_of_any_command_is_refused_in_the_words_of_python():
    tried = 0
    for kind in settings_of_commands():
        for action in command._parser(kind)._actions:
            hint = getattr(action, "_typehint", None)
            if hint is None or not action.option_strings or "text" in takes(hint):
                continue
            option = action.option_strings[0]
            with pytest.raises(UserError) as error:
                command.options(kind, "tool", [f"{option}=nonsense"])
            assert str(error.value) == f"{option} nonsense: give {takes(hint)}"
            tried += 1
    assert tried > 60
