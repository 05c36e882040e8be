"""Finding the weights that a user means: a file, a folder, a repository of Hugging Face, a name of
timm; and what a ``config.json`` of timm says of them."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import timm

from transreid_ssl.errors import UserError, brief
from transreid_ssl.models.spec import Interpolation
from transreid_ssl.models.statistics import Statistics
from transreid_ssl.models.timm_build import PREFIX, is_timm
from transreid_ssl.outputs import BACKBONE, MODEL

FILE_NAMES = (BACKBONE, MODEL)
"""What a run writes, and what is looked for in folders and hub repositories."""
CONFIG = "config.json"
"""What timm writes beside weights."""


def find_weights(source: str | Path, training: bool = False) -> Path:
    """The file behind a path, a folder, a hub id or a name of timm.

    Hub ids are ``owner/name`` or ``owner/name@revision``, also with ``hf-hub:`` before; names of
    timm are those with weights, such as ``vit_small_patch16_224.dino``, also with ``timm:`` before,
    and a folder may be called ``local-dir:PATH`` as timm does.

    Args:
        training: Of the folder of a run take the newest checkpoint, which is otherwise taken where
            there is no backbone yet.

    Raises:
        UserError: there is nothing of the kind.
    """
    text = str(source).removeprefix("local-dir:")
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        found = [path / name for name in FILE_NAMES if (path / name).is_file()]
        saved = sorted(path.glob("checkpoints/step_*.pt"))[-1:]
        if found := saved + found if training else found + saved:
            return found[0]
        raise UserError(f"{path}: no {' or '.join(FILE_NAMES)} in this folder; name the file")
    if repository := _repository(text):
        return _download(repository)
    raise UserError(f"{source}: no such weights file; check the path")


def weights_digest(source: str | Path) -> str:
    """Digest of the content of the weights file that a path, a folder or a hub id stands for."""
    with open(find_weights(source), "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


class Published(NamedTuple):
    """What those who published weights without a header of ours say of them beside the file."""

    statistics: Statistics | None = None
    interpolation: Interpolation | None = None
    provenance: Mapping[str, str] = MappingProxyType({})
    """``license``, and ``repository`` on the Hub, where they are told."""


def published(source: str | Path) -> Published:
    """What timm's record of a name, or ``config.json`` beside a file, says of weights.

    Nothing where there is neither, or where it is of another kind.
    """
    name = _timm_name(str(source))
    told = _timm_record(name) if name else _config_beside(source)
    try:
        mean, std = tuple(map(float, told["mean"])), tuple(map(float, told["std"]))
        statistics = Statistics(mean, std) if len(mean) == len(std) == 3 else None
    except (KeyError, TypeError, ValueError):
        statistics = None
    interpolation = {"bicubic": "cubic", "bilinear": "linear"}.get(told.get("interpolation"))
    repository = _repository(str(source)) if not Path(source).exists() else None
    origin = {"license": told.get("license"), "repository": repository}
    return Published(
        statistics, interpolation, {key: value for key, value in origin.items() if value}
    )


_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt")


def _repository(text: str) -> str | None:
    """The hub id that a text is, or that timm's weights of this name have.

    Raises:
        UserError: a name of timm without weights on the Hub.
    """
    name = _timm_name(text)
    if name:
        found = _timm_record(name).get("hf_hub_id")
        if not found:
            raise UserError(
                f"{text}: timm has no weights of this name on the Hub; `timm.list_pretrained()` "
                "names those that it has"
            )
        return found
    repository = text.removeprefix("hf-hub:")
    named = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", repository)
    here = Path(text).expanduser().parent.is_dir() or Path(text).suffix in _SUFFIXES
    return repository if text.startswith("hf-hub:") or (named and not here) else None


def _timm_name(text: str) -> str | None:
    """The text as a name of timm, if it is one."""
    name = text.removeprefix(PREFIX)
    known = "/" not in name and timm.is_model(name)
    if is_timm(text) and not known:
        raise UserError(f"{text}: timm knows no network of this name; see `timm.list_pretrained()`")
    return name if known else None


def _timm_record(name: str) -> dict[str, Any]:
    try:
        found = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag
        raise UserError(f"{PREFIX}{name}: {error}") from error
    return found.to_dict() if found else {}


def _config_beside(source: str | Path) -> dict[str, Any]:
    """``pretrained_cfg`` of the config.json beside the weights; {} without one of timm's kind."""
    path = find_weights(source).with_name(CONFIG)
    repository = None if Path(source).exists() else _repository(str(source))
    try:
        if repository:
            path = _fetch(repository, CONFIG)
        found = json.loads(path.read_text(encoding="utf-8"))["pretrained_cfg"]
    except Exception:  # not there, or another program's
        return {}
    return found if isinstance(found, dict) else {}


def _fetch(repository: str, name: str, cached: bool = False) -> Path:
    # Imported here: nothing else of what reads weights talks to the network.
    from huggingface_hub import hf_hub_download

    owner_name, _, revision = repository.partition("@")
    told: dict[str, Any] = {"revision": revision, "local_files_only": cached}
    return Path(hf_hub_download(owner_name, name, **{k: v for k, v in told.items() if v}))


def _download(repository: str) -> Path:
    """The first of our files that the Hub, or what was downloaded before, has."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    refused: Exception | None = None
    for name in FILE_NAMES:
        try:
            # Without a network each question is asked for half a minute: once is enough.
            return _fetch(repository, name, cached=refused is not None)
        except LocalEntryNotFoundError as error:
            # The hub could not be asked, and this file is not in the cache: the next may be.
            refused = error
        except EntryNotFoundError:
            continue
        except Exception as error:
            refused = error
            break
    if refused is None:
        raise UserError(f"{repository}: this hub repository has no {' or '.join(FILE_NAMES)}")
    raise UserError(
        f"{repository}: neither a file here nor found on the Hugging Face hub ({brief(refused)})"
    ) from refused
