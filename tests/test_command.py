"""Command lines made of dataclasses: what is parsed, what is said, and what passes through."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

import launch
from transreid_ssl import command
from transreid_ssl.errors import UserError, check_ranges


@dataclass(frozen=True)
class Part:
    """Settings within settings."""

    size: int = 1

    def __post_init__(self) -> None:
        check_ranges(self, size=(1, None))
        if self.size == 13:
            _ = self.nothing  # a slip of the programmer


@dataclass(frozen=True)
class Copy:
    """Copy a file.

    Example: ``copy a.txt b.txt``

    Args:
        source: What to copy.
        names: Words.
        part: Of it.
    """

    source: str
    names: Sequence[str] = field(
        default_factory=lambda: ["x", "y"], metadata={"nargs": "+", "help": "Several words."}
    )
    part: Part = field(default_factory=Part)


@dataclass(frozen=True)
class Count:
    """Count something."""

    limit: int = 3


def copy(*arguments):
    return command.options(Copy, "copy", arguments)


def test_positional_several_words_and_nested_settings():
    assert copy("a") == Copy("a")
    assert copy("a", "--part.size=2", "--names", "u", "v") == Copy("a", ["u", "v"], Part(2))


def test_a_sub_command_is_given_its_settings_and_gives_the_exit_code():
    actions = {"copy": (Copy, lambda options: options), "count": (Count, lambda found: found.limit)}
    assert command.subcommands("tool", "A tool.", actions, ["copy", "a"]) == Copy("a")
    assert command.subcommands("tool", "A tool.", actions, ["count", "--limit=7"]) == 7
    with pytest.raises(UserError, match=r"^move: give one of copy, count$"):
        command.subcommands("tool", "A tool.", actions, ["move"])
    with pytest.raises(UserError, match=r"did you mean count\?$"):
        command.subcommands("tool", "A tool.", actions, ["coutn"])


def test_the_nearest_option_is_one_of_the_sub_command_that_was_named():
    actions = {"copy": (Copy, lambda options: options), "count": (Count, lambda found: found.limit)}
    with pytest.raises(UserError, match=r"--limit=7$"):
        command.subcommands("tool", "A tool.", actions, ["copy", "a", "--limit=7"])
    with pytest.raises(UserError, match=r"did you mean --limit\?$"):
        command.subcommands("tool", "A tool.", actions, ["count", "--limt=7"])


def test_help_is_the_docstring(capsys):
    with pytest.raises(SystemExit):
        copy("--help")
    said = capsys.readouterr().out
    assert "Copy a file.\n\nExample: copy a.txt b.txt\n" in said
    for text in ("What to copy", "--names x y", "Several words"):
        assert text in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "are required: source; --help"),
        (["a", "--part.size=0"], "--part.size 0: give 1 or more"),
        (["a", "--part.size=many"], "error: --part.size many: give a whole number\n"),
        (["a", "--part.colour=red"], "part.colour"),
        (["a", "--names"], "--names: expected at least one argument"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.run(copy, *arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_a_fault_of_a_settings_class_is_not_blamed_on_the_user():
    with pytest.raises(AttributeError, match="nothing") as raised:
        command.run(copy, "a", "--part.size=13")
    assert any("fault of transreid_ssl: please report it" in n for n in raised.value.__notes__)


def test_the_beginning_of_an_option_is_not_taken_for_it():
    for arguments in (("a", "--part.siz=2"), ("a", "--name", "x")):
        with pytest.raises(UserError, match=arguments[1].partition("=")[0]):
            copy(*arguments)


@pytest.mark.parametrize("debug", ["1", "0", None])
def test_a_traceback_of_a_users_error_is_shown_when_asked_for(debug, monkeypatch, capsys):
    monkeypatch.delenv("TRANSREID_SSL_DEBUG", raising=False)
    if debug is not None:
        monkeypatch.setenv("TRANSREID_SSL_DEBUG", debug)
    with pytest.raises(SystemExit):
        command.run(copy, "a", "--part.size=0")
    said = capsys.readouterr().err
    assert ("Traceback" in said) == (debug == "1")
    assert said.splitlines()[-1] == "error: --part.size 0: give 1 or more"


@pytest.mark.parametrize(
    ("resumes", "words", "go_on"),
    [
        (True, [], ": run the same command again to go on"),
        (True, ["--run.overwrite=true"],
         ": run the same command again, without --run.overwrite, to go on"),
        (False, [], ""),
    ],
)  # fmt: skip
def test_an_interrupt_says_to_go_on_where_that_is_so(resumes, words, go_on, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["program", *words])

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        command.run(interrupted, resumes=resumes)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == f"interrupted{go_on}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"part: null\n", "part is None: give settings under it"),
        (b"part: [1]\n", r"part is \[1\]: give settings under it"),
        (b"part: {size: x}\n", "part.size"),
        (b"part: {\n", "parsing"),
        (b"\xff\xfe", "can't decode"),
    ],
)
def test_settings_files_that_make_no_sense(tmp_path, content, message):
    (tmp_path / "settings.yaml").write_bytes(content)
    parser = command.Parser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Copy, skip={"source", "names"})
    with pytest.raises(UserError, match=message):
        parser.parse(["--config", str(tmp_path / "settings.yaml")])


def test_commands_that_are_printed_are_called_as_the_user_calls_them():
    """``transreid-ssl`` where that was typed: whatever a print names passes ``as_started``.

    ``say_next`` sees to it for what comes next.
    """
    told, seen = [], 0
    for path in (launch.ROOT / "transreid_ssl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, text = ast.unparse(node.func), ast.unparse(node)
            seen += called.endswith("say_next")
            names = "python -m transreid_ssl" in text or "_COMMAND" in text or "next: " in text
            if called.endswith(("print", ".say")) and names and "as_started(" not in text:
                told.append(f"{path}:{node.lineno}")
    assert seen, "so that this test looks at something"
    assert not told
