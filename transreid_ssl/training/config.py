"""From a YAML file and command-line overrides to one frozen dataclass, and back."""

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml

from transreid_ssl import launching, logs
from transreid_ssl.command import Parser, as_started
from transreid_ssl.errors import UserError
from transreid_ssl.progress import is_first
from transreid_ssl.training.yaml_files import read_yaml
from transreid_ssl.words import nearest

Config = TypeVar("Config")


MOST_USED = {"config", "processes", "base", "source_model"} | {
    f"{group}.{name}"
    for group, names in {
        "run": "output epochs batch_size precision num_workers overwrite",
        "data": "pool subset name root", "source": "name root", "target": "name root",
        "model": "name img_size weights", "init": "heads", "optim": "name lr",
        "probe": "data root every", "distill": "teacher",
    }.items()
    for name in names.split()
}  # fmt: skip
"""What ``--help`` shows of a recipe's settings; ``--help-all`` shows all."""
AUTO = "auto"
"""In place of a settings file: settings chosen for the pool and the machine."""
_DEMO = "the demo settings"


def parse_config(
    kind: type[Config],
    default_file: Path,
    description: str | None,
    arguments: Sequence[str] | None = None,
    say: Callable[[str], object] = logs.RUN.info,
) -> tuple[Config, str]:
    """Parse ``--config FILE`` and overrides such as ``--optim.lr 1e-3`` into ``kind``.

    Without ``--config``, ``default_file`` (the demo) is read first, so that a recipe runs with no
    argument. The files beside it need no folder in their names. ``--config auto`` asks ``kind``,
    whose ``choose`` gives settings for the pool and the machine. A ``kind`` with ``take_over``
    gives what a checkpoint asks for, where no option and no settings file of the user's own does.
    ``say`` is told which and why, on the first process. Returns the settings and the name of the
    file that they came from.

    Raises:
        UserError: no such file, an unknown key, a value of the wrong type, or a ``kind`` for which
            nothing is chosen.
    """
    parser, folder = _parser(kind, description), default_file.parent
    arguments = _find_shipped(sys.argv[1:] if arguments is None else arguments, folder)
    arguments, auto = _without_auto(arguments, kind)
    arguments, printing = _without_printing(arguments)
    origin = _origin(_settings_files(arguments), auto, default_file)
    if origin == _DEMO:
        arguments = ["--config", str(default_file), *arguments]
    files = _settings_files(arguments)
    _check_files(files)
    with _named([*[AUTO] * auto, *files], arguments):
        if {"-h", "--help", "--help-all"} & set(arguments):
            if auto:
                parser.set_defaults(kind.own_settings(default_file))
            parser.show_help_of(files, MOST_USED)
        config = _parse(parser, kind, arguments)
    own = _without_shipped(arguments, folder)
    if auto:
        chosen = config.choose(_given(parser, arguments), default_file)
        arguments = [*as_options(chosen.settings), *arguments]
        with _named([AUTO, *files], arguments):
            config = _parse(parser, kind, arguments)
        _say_once(say, () if printing else chosen.lines)
    taken = config.take_over(_given(parser, own)) if hasattr(kind, "take_over") else None
    if taken is not None:
        arguments = [*arguments, *as_options(taken.settings)]
        config = _parse(parser, kind, arguments)
        _say_once(say, () if printing else taken.lines)
    if printing:  # of what will run, which the pool or a checkpoint may have had a say in
        parser.parse([*arguments, *printing])
    return config, origin


def _parser(kind: type, description: str | None) -> Parser:
    parser = Parser(
        description=as_started(description or ""),
        usage="%(prog)s [--config FILE] [--SETTING VALUE ...]",
    )
    chosen = ', or "auto": settings chosen for the pool and the machine' * hasattr(kind, "choose")
    parser.add_argument(
        "--config", action="config", help=f"YAML file{chosen}; later options override it"
    )
    parser.add_argument(launching.OPTION, action=launching.Announced)
    parser.add_class_arguments(kind)
    return parser


def _given(parser: Parser, arguments: Sequence[str]) -> set[str]:
    """The dotted names of the settings that these arguments give, themselves or in files."""
    return {*parser.parse_args(arguments, defaults=False).keys()}


def _say_once(say: Callable[[str], object], lines: Collection[str]) -> None:
    """Say it on the first process alone."""
    if lines and is_first():
        say("\n".join(lines))


def _parse(parser: Parser, kind: type[Config], arguments: Sequence[str]) -> Config:
    values = parser.parse(arguments)
    if (run := values.get("run")) is not None:
        logs.show(run.verbosity)
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})


@contextmanager
def _named(files: Sequence[str], arguments: Sequence[str]) -> Iterator[None]:
    """What is wrong with settings names the files that they are from, unless it was typed."""
    try:
        yield
    except UserError as error:
        option = str(error).partition(":")[0].partition(" ")[0]
        typed = {word.partition("=")[0] for word in arguments}
        if option in typed or str(error).startswith("unrecognized arguments"):
            raise
        raise UserError(f"settings ({', '.join(files)}, command line): {error}") from error


def is_auto(arguments: Sequence[str]) -> bool:
    """Whether ``--config auto`` is among the arguments; other settings may be "auto", too."""
    return f"--config={AUTO}" in arguments or ("--config", AUTO) in pairwise(arguments)


def _without_auto(arguments: Sequence[str], kind: type) -> tuple[list[str], bool]:
    """The arguments without ``--config auto``, and whether it was among them."""
    places = [n for n, pair in enumerate(pairwise(arguments)) if pair == ("--config", AUTO)]
    if places and not hasattr(kind, "choose"):
        raise UserError(
            f"--config {AUTO}: settings are chosen for pre-training alone; give a file, or none "
            "for the demo"
        )
    left_out = {word for place in places for word in (place, place + 1)}
    return [word for n, word in enumerate(arguments) if n not in left_out], bool(places)


def _without_shipped(arguments: Sequence[str], folder: Path) -> list[str]:
    """The arguments without the settings files in ``folder``: what the user has said himself."""
    places = [
        place for place, (option, file) in enumerate(pairwise(arguments))
        if option == "--config" and _is_in(file, folder)
    ]  # fmt: skip
    left_out = {word for place in places for word in (place, place + 1)}
    return [word for place, word in enumerate(arguments) if place not in left_out]


def _without_printing(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without ``--print_config``, which ends the parsing, and that."""
    printing = [word for word in arguments if word.partition("=")[0] == "--print_config"]
    return [word for word in arguments if word not in printing], printing


def _is_in(file: str, folder: Path) -> bool:
    return Path(file).resolve().parent == folder.resolve()


def _find_shipped(arguments: Sequence[str], folder: Path) -> list[str]:
    """The arguments with ``--config FILE`` as two, FILE in ``folder`` where it is only there.

    Raises:
        UserError: it is in neither place.
    """
    words = []
    for word in arguments:
        words += word.split("=", 1) if word.startswith("--config=") else [word]
    for place, name in enumerate(words[1:], start=1):
        if words[place - 1] != "--config" or name == AUTO or os.path.exists(name):
            continue
        if Path(name).name == name and (folder / name).is_file():
            words[place] = str(folder / name)
        else:
            known = nearest(name, (path.name for path in folder.glob("*.yaml")))
            raise UserError(f"--config {name}: there is no such file{known}")
    return words


def _settings_files(arguments: Sequence[str]) -> list[str]:
    return [file for option, file in pairwise(arguments) if option == "--config"]


def _check_files(files: Sequence[str]) -> None:
    """Refuse settings files that hold no settings."""
    for file in filter(os.path.isfile, files):
        if not isinstance(read_yaml(file), dict):
            raise UserError(f"{file}: holds no settings (lines such as `name: value`)")


def _origin(files: Sequence[str], auto: bool, default_file: Path) -> str:
    """Where the settings come from, in words.

    Raises:
        UserError: from the demo's file, which is missing.
    """
    if auto:
        return "settings chosen for this pool and machine"
    if not files:
        if not default_file.is_file():
            raise UserError(f"{default_file}: the demo settings are missing; give --config FILE")
        return _DEMO
    shipped = [Path(file).name for file in files if _is_in(file, default_file.parent)]
    return f"the shipped {', '.join(shipped)}" if shipped else "your --config"


def as_plain(value: Any) -> Any:
    """Nested dataclasses as dicts and lists: what YAML and JSON can hold."""
    if dataclasses.is_dataclass(value):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    return value


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names such as ``optim.lr``."""
    found = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


def as_options(settings: Mapping[str, Any]) -> list[str]:
    """Settings by dotted names as words of a command line."""
    return [f"--{name}={as_typed(value)}" for name, value in settings.items()]


def as_typed(value: Any) -> str:
    """The value of a setting as it is typed, before a shell's quotes."""
    return value if isinstance(value, str) else json.dumps(as_plain(value), separators=(",", ":"))


def to_yaml(config: Any) -> str:
    """The resolved settings as YAML that ``--config`` reads again, versions in its first lines."""
    versions = ", ".join(f"{name} {version}" for name, version in software().items())
    return f"# {versions}\n" + yaml.safe_dump(as_plain(config), sort_keys=False)


def software() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("transreid_ssl", "torch", "timm", "accelerate", "numpy", "opencv-python-headless")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """The dotted names of settings that differ between two plain settings."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = list(dict.fromkeys([*before, *now]))
        return [
            line
            for name in names
            for line in differences(before.get(name), now.get(name), f"{prefix}{name}.")
        ]
    if before == now:
        return []
    return [f"{prefix.rstrip('.')} ({before} there, {now} now)"]


def with_defaults(before: Mapping[str, Any], config: Any, usual: Any = None) -> dict[str, Any]:
    """Plain settings of an older version, with those that are newer at their defaults.

    Args:
        before: what an older version of the dataclass wrote, some of whose fields it had not.
        config: the dataclass now.
        usual: the dataclass that is its default where it is a section of another one.
    """
    found = dict(before)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = getattr(usual, field.name) if type(usual) is type(config) else _default(field)
        if field.name not in found and default is not dataclasses.MISSING:
            found[field.name] = as_plain(default)
        elif dataclasses.is_dataclass(value) and isinstance(found.get(field.name), dict):
            found[field.name] = with_defaults(found[field.name], value, default)
    return found


def _default(field: dataclasses.Field) -> Any:
    """What a field is where nobody says; MISSING where somebody has to."""
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default


def provenance(config: Any, **more: Any) -> dict[str, Any]:
    """What a weights file says of its origin: the settings, the versions and ``more``."""
    return {**more, "settings": as_plain(config), "software": software()}
