"""From a weights file to the features of images: what the commands that embed images share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor
from tqdm import tqdm

from transreid_ssl.data import LabelledImages, Pool, ReIDProtocol, image_loader
from transreid_ssl.data.reid import camera_rows
from transreid_ssl.errors import UserError
from transreid_ssl.models import Backbone, load_backbone
from transreid_ssl.outputs import PRETRAINED, SUPERVISED, UDA, USL
from transreid_ssl.retrieval import embed_batches
from transreid_ssl.training import share_cores

LATEST = SUPERVISED, UDA, USL, PRETRAINED


@dataclass(frozen=True)
class EmbeddingSettings:
    """How to embed images; every choice that the weights file makes itself is left to it.

    Args:
        weights: Any weights file, folder or Hugging Face id; by default the last stage that is
            there: model.safetensors of outputs/supervised_finetune, outputs/uda_finetune or
            outputs/usl_finetune, or else outputs/dino_pretrain/backbone.safetensors.
        feature: Take features "before" or "after" the batch norm that some fine-tuned networks end
            with; by default as they were meant.
        flip: Add the features of the mirrored image, as papers do; doubles the time.
        batch_size: Images at once.
        num_workers: Decoding processes.
        precision: "bfloat16" is faster on recent GPUs.
        device: By default a GPU where there is one.
    """

    weights: str | None = None
    feature: Literal["before", "after"] | None = None
    flip: bool = False
    batch_size: PositiveInt = 128
    num_workers: NonNegativeInt = 2
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str | None = None


def load_model(settings: EmbeddingSettings) -> tuple[str, Backbone]:
    """The weights file that was taken, and its network on its device.

    Raises:
        UserError: no weights, unreadable ones, ``feature`` "after" without a norm there, or a
            device that is not there.
    """
    weights = settings.weights or next((path for path in LATEST if Path(path).is_file()), None)
    if weights is None:
        raise UserError(
            f"no weights: none of {', '.join(LATEST)} is there; make them with `accelerate launch "
            "recipes/dino_pretrain.py`, or name some with --weights"
        )
    norm = {} if settings.feature is None else {"feature_norm": settings.feature == "after"}
    model = load_backbone(weights, **norm)
    if any(name.startswith("bottleneck.") for name in model.load_report.missing):
        raise UserError(
            f"{weights}: holds no batch norm to take features after; leave --feature out"
        )
    if device_of(settings) == "cpu":
        share_cores(settings.num_workers)
    try:
        return weights, model.to(device_of(settings))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise UserError(f"--device {settings.device}: cannot be used ({reason})") from error


def device_of(settings: EmbeddingSettings) -> str:
    """The device asked for, or a GPU where there is one."""
    return settings.device or ("cuda" if torch.cuda.is_available() else "cpu")


def embedded(
    model: Backbone,
    images: Pool | LabelledImages,
    settings: EmbeddingSettings,
    cameras: np.ndarray | None = None,
    title: str = "images",
    skip_broken: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """``(index, features)`` of each batch, in order, under a progress bar: see ``embed_batches``.

    Args:
        cameras: int64 (N,), rows of the network's camera embedding, where it has one.
        title: of the progress bar.
        skip_broken: leave out images that cannot be read.

    Raises:
        UserError: a broken image, or cameras that the network needs and that are not known.
    """
    spec = model.spec
    if spec.num_cameras and cameras is None:
        raise UserError(f"{title}: this network needs the camera of each image, which is not known")
    loader = image_loader(
        images, spec.img_size, settings.batch_size, settings.num_workers,
        skip_corrupt=skip_broken, cameras=cameras,
    )  # fmt: skip
    batches: Any = (batch for batch in loader if len(batch["index"]))
    shown = tqdm(batches, title, len(loader), disable=None, leave=False)
    return embed_batches(
        model, shown, mean=spec.mean, std=spec.std,
        device=device_of(settings), flip=settings.flip, precision=settings.precision,
    )  # fmt: skip


def query_and_gallery(
    model: Backbone, protocol: ReIDProtocol, settings: EmbeddingSettings
) -> tuple[Tensor, Tensor]:
    """Unit features of queries and gallery, float32 (Q, D) and (G, D), on the CPU."""
    found = []
    for title, images in (("query", protocol.query), ("gallery", protocol.gallery)):
        cameras = camera_rows(images, protocol, model.spec.num_cameras)
        batches = embedded(model, images, settings, cameras, title)
        found.append(torch.cat([part for _, part in batches]))
    return found[0], found[1]


def labels(protocol: ReIDProtocol, queries: Any = slice(None)) -> tuple[tuple, tuple]:
    """(identities, cameras) of ``queries`` and of the gallery; cameras where both know them."""
    query, gallery = protocol.query, protocol.gallery
    if query.cameras is None or gallery.cameras is None:
        return (query.identities[queries], None), (gallery.identities, None)
    return (
        (query.identities[queries], query.cameras[queries]),
        (gallery.identities, gallery.cameras),
    )
