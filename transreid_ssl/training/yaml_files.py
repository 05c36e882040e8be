"""Reading YAML that may be anything: no code in it runs, and it cannot blow itself up."""

from pathlib import Path
from typing import Any

import yaml

from transreid_ssl.errors import UserError
from transreid_ssl.reading import read_content


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds: plain values only, and no more of them than a person would write.

    Raises:
        UserError: no such file, not YAML, or one whose aliases or depth blow it up.
    """
    try:
        node = yaml.compose(read_content(path).decode("utf-8-sig"), Loader=yaml.SafeLoader)
        if node is None:
            return None
        if _num_values(node, {}) > _MOST_VALUES:
            raise UserError(f"{path}: its aliases stand for too many values; write them out")
        return yaml.SafeLoader("").construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not readable as YAML ({reason})") from error


_MOST_VALUES = 100_000


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Values under ``node``, those behind an alias as often as it is used."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES  # until it is known: an alias of what holds it never ends
        children = node.value if isinstance(node.value, list) else []
        parts = (part for child in children for part in _as_nodes(child))
        known[id(node)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(node)]


def _as_nodes(child: yaml.Node | tuple[yaml.Node, yaml.Node]) -> tuple[yaml.Node, ...]:
    return child if isinstance(child, tuple) else (child,)
