"""Passing weights on: a folder that this package, timm and the Hugging Face hub read.

It holds ``model.safetensors`` with the header of ours, which knows the trainings before; timm's
``config.json``, for ``timm.create_model("local-dir:FOLDER", pretrained=True)`` once this package is
imported; and the card, README.md.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path, PurePath
from typing import Any

from timm.models import filter_pretrained_cfg

from transreid_ssl.errors import UserError, brief
from transreid_ssl.files import atomic_paths
from transreid_ssl.models.build import Backbone
from transreid_ssl.models.card import Publication, licence_of, model_card
from transreid_ssl.models.hub import CONFIG
from transreid_ssl.models.lineage import with_lineage
from transreid_ssl.models.mgn import MGN
from transreid_ssl.models.resnet import ReIDResNet
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.timm_build import entry
from transreid_ssl.models.timm_network import TimmNetwork
from transreid_ssl.models.vit import ReIDViT
from transreid_ssl.models.weights import load_backbone, save_backbone
from transreid_ssl.outputs import MODEL

CARD = "README.md"


def save_pretrained(
    backbone: Backbone, folder: str | Path, publication: Publication | None = None
) -> Path:
    """Write a folder that ``load_backbone``, timm and the Hub read; returns it.

    Files of these names are replaced, all or none. Folders of this machine are left out of what the
    header and the card say, but for the last three names of a path.

    Raises:
        UserError: it cannot be written, or a licence is asked for that a source does not allow.
    """
    folder, publication = Path(folder), publication or Publication()
    spec = with_lineage(backbone.spec)
    spec = replace(spec, provenance=_without_folders(spec.provenance))
    title = publication.title or folder.resolve().name
    card = model_card(spec, replace(publication, title=title))
    config = timm_config(backbone, spec, licence_of(spec, publication))
    with atomic_paths(*(folder / name for name in (MODEL, CONFIG, CARD))) as temporary:
        weights, config_path, card_path = temporary
        save_backbone(weights, backbone, spec)
        config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        card_path.write_text(str(card), encoding="utf-8")
    return folder


def push_to_hub(
    backbone: Backbone,
    repository: str,
    publication: Publication | None = None,
    *,
    private: bool = False,
    create_pr: bool = False,
) -> str:
    """Upload what ``save_pretrained`` writes to the Hugging Face hub; returns the address.

    The repository ``owner/name`` is created where there is none. Its card is replaced: words of
    one's own belong into ``publication.notes``.

    Raises:
        UserError: as ``save_pretrained``, or the Hub refuses.
    """
    from huggingface_hub import HfApi

    publication = publication or Publication()
    publication = replace(publication, title=publication.title or repository)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(backbone, folder, publication)
        try:
            api = HfApi(library_name="transreid_ssl")
            place = api.create_repo(repository, private=private, exist_ok=True)
            message = f"Weights of {backbone.spec.name}"
            api.upload_folder(
                repo_id=place.repo_id, folder_path=folder, commit_message=message,
                create_pr=create_pr,
            )  # fmt: skip
        except Exception as error:  # whatever stands between here and there
            raise UserError(
                f"{repository}: not uploaded to the Hugging Face hub ({brief(error, 160)}); "
                "`hf auth login` gives a token, which must be allowed to write there"
            ) from error
    return str(place)


def timm_config(backbone: Backbone, spec: BackboneSpec, licence: str) -> dict[str, Any]:
    """What timm's ``config.json`` says: how to build the network again, and how to feed it."""
    known, own = entry(spec.name), {field.name for field in fields(BackboneSpec)}
    own -= {"name"} if known == spec.name else set()
    config = filter_pretrained_cfg(
        dict(backbone.pretrained_cfg), remove_source=True, remove_null=True
    )
    config.pop("architecture", None)
    return {
        "architecture": known,
        "num_classes": 0,
        "num_features": spec.embed_dim,
        "model_args": {k: v for k, v in json.loads(spec.to_json()).items() if k in own},
        "pretrained_cfg": config | {"license": licence},
    }


def _without_folders(value: Any) -> Any:
    """A provenance in which paths of this machine are cut to their last three names."""
    if isinstance(value, Mapping):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner) for inner in value]
    if not isinstance(value, str) or not os.path.isabs(os.path.expanduser(value)):
        return value
    path, home = PurePath(os.path.expanduser(value)), Path.home()
    path = path.relative_to(home) if path.is_relative_to(home) else path.relative_to(path.anchor)
    return str(PurePath(*path.parts[-3:]))


# The names that Hugging Face's libraries give these, on every network. They stand here, and not
# with the classes, which the loading of weights imports.
for _network in (ReIDViT, ReIDResNet, MGN, TimmNetwork):
    _network.save_pretrained = save_pretrained
    _network.push_to_hub = push_to_hub
    _network.from_pretrained = staticmethod(load_backbone)
