"""From a YAML file and command-line overrides to one frozen dataclass, and back."""

import dataclasses
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import yaml

from transreid_ssl.command import Parser
from transreid_ssl.errors import UserError
from transreid_ssl.training.yaml_files import read_yaml

Config = TypeVar("Config")


def parse_config(
    kind: type[Config], default_file: Path, description: str, arguments: Sequence[str] | None = None
) -> tuple[Config, str]:
    """Parse ``--config FILE`` and overrides such as ``--optim.lr 1e-3`` into ``kind``.

    Without ``--config``, ``default_file`` (the demo) is read first, so that a recipe runs with no
    argument. Returns the settings and the name of the file that they came from.

    Raises:
        UserError: no such file, an unknown key, or a value of the wrong type.
    """
    parser = Parser(description=description)
    parser.add_argument("--config", action="config", help="YAML file; later options override it")
    parser.add_class_arguments(kind)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    given = bool(_settings_files(arguments))
    if not given and not {"-h", "--help"} & set(arguments):
        if not default_file.is_file():
            raise UserError(f"{default_file}: the demo settings are missing; give --config FILE")
        arguments = ["--config", str(default_file), *arguments]
    files = _settings_files(arguments)
    for file in filter(os.path.isfile, files):
        if not isinstance(read_yaml(file), dict):
            raise UserError(f"{file}: holds no settings (lines such as `name: value`)")
    try:
        values = parser.parse(arguments)
    except UserError as error:
        raise UserError(f"settings ({', '.join(files)}, command line): {error}") from error
    fields = {field.name: values[field.name] for field in dataclasses.fields(kind)}
    return kind(**fields), "the demo settings" if not given else "your --config"


def _settings_files(arguments: Sequence[str]) -> list[str]:
    """What ``--config FILE`` and ``--config=FILE`` name."""
    return [
        a.partition("=")[2] or b
        for a, b in zip(arguments, [*arguments[1:], ""])
        if a.partition("=")[0] == "--config"
    ]


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
