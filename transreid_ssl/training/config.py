"""From a YAML file and command-line overrides to one frozen dataclass, and back."""

import dataclasses
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml

from transreid_ssl.command import Parser, as_started, nearest
from transreid_ssl.errors import UserError
from transreid_ssl.training.yaml_files import read_yaml

Config = TypeVar("Config")


MOST_USED = {"help", "help_all", "config", "base", "source_model"} | {
    f"{group}.{name}"
    for group, names in {
        "run": "output epochs batch_size precision num_workers overwrite",
        "data": "pool subset name root", "source": "name root", "target": "name root",
        "model": "name img_size weights", "optim": "name lr", "probe": "data root every",
        "distill": "teacher",
    }.items()
    for name in names.split()
}  # fmt: skip
"""What ``--help`` shows of a recipe's settings; ``--help-all`` shows all."""


def parse_config(
    kind: type[Config], default_file: Path, description: str, arguments: Sequence[str] | None = None
) -> tuple[Config, str]:
    """Parse ``--config FILE`` and overrides such as ``--optim.lr 1e-3`` into ``kind``.

    Without ``--config``, ``default_file`` (the demo) is read first, so that a recipe runs with no
    argument. The files beside it need no folder in their names. Returns the settings and the name
    of the file that they came from.

    Raises:
        UserError: no such file, an unknown key, or a value of the wrong type.
    """
    parser = Parser(
        description=as_started(description), usage="%(prog)s [--config FILE] [--SETTING VALUE ...]"
    )
    parser.add_argument(
        "--help-all", action="help", help="Show every setting with its value, and exit."
    )
    parser.add_argument("--config", action="config", help="YAML file; later options override it")
    parser.add_class_arguments(kind)
    arguments = _find_shipped(sys.argv[1:] if arguments is None else arguments, default_file.parent)
    given = bool(_settings_files(arguments))
    if not given:
        if not default_file.is_file():
            raise UserError(f"{default_file}: the demo settings are missing; give --config FILE")
        arguments = ["--config", str(default_file), *arguments]
    files = _settings_files(arguments)
    for file in filter(os.path.isfile, files):
        if not isinstance(read_yaml(file), dict):
            raise UserError(f"{file}: holds no settings (lines such as `name: value`)")
    try:
        if {"-h", "--help", "--help-all"} & set(arguments):
            parser.show_help_of(files, None if "--help-all" in arguments else MOST_USED)
        values = parser.parse(arguments)
    except UserError as error:
        raise UserError(f"settings ({', '.join(files)}, command line): {error}") from error
    fields = {field.name: values[field.name] for field in dataclasses.fields(kind)}
    return kind(**fields), _origin(files, default_file) if given else "the demo settings"


def _find_shipped(arguments: Sequence[str], folder: Path) -> list[str]:
    """The arguments with ``--config FILE`` as two, FILE in ``folder`` where it is only there.

    Raises:
        UserError: it is in neither place.
    """
    words = []
    for word in arguments:
        words += word.split("=", 1) if word.startswith("--config=") else [word]
    for place, name in enumerate(words[1:], start=1):
        if words[place - 1] != "--config" or os.path.exists(name):
            continue
        if Path(name).name == name and (folder / name).is_file():
            words[place] = str(folder / name)
        else:
            known = nearest(name, (path.name for path in folder.glob("*.yaml")))
            raise UserError(f"--config {name}: there is no such file{known}")
    return words


def _settings_files(arguments: Sequence[str]) -> list[str]:
    return [file for option, file in pairwise(arguments) if option == "--config"]


def _origin(files: Sequence[str], default_file: Path) -> str:
    shipped = [path.name for path in map(Path, files) if path.parent == default_file.parent]
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


def provenance(config: Any, **more: str) -> dict[str, Any]:
    """What a weights file says of its origin: the settings, the versions and ``more``."""
    return {**more, "settings": as_plain(config), "software": software()}
