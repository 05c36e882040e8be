"""Features of images: a network over all of them, in one process or dealt out to many."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import accelerate
import numpy as np
import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.data import LabelledImages, Pool, ReIDProtocol, image_loader
from transreid_ssl.data.reid import camera_rows
from transreid_ssl.errors import UserError
from transreid_ssl.models import Backbone
from transreid_ssl.processes import together
from transreid_ssl.progress import progress

Network = TypeVar("Network", bound=nn.Module)
PRECISIONS: dict[str, torch.dtype | None] = {
    "no": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def embed_protocol(
    backbone: Backbone, protocol: ReIDProtocol, **options: Any
) -> tuple[Tensor, Tensor]:
    """Unit features of queries and gallery, float32 (Q, D) and (G, D): see ``embed_images``."""
    found = []
    for title, images in (("query", protocol.query), ("gallery", protocol.gallery)):
        cameras = camera_rows(images, protocol, backbone.spec.num_cameras)
        found.append(embed_images(backbone, images, cameras=cameras, title=title, **options)[0])
    return found[0], found[1]


def embed_images(
    backbone: Backbone,
    images: Pool | LabelledImages,
    *,
    accelerator: accelerate.Accelerator | None = None,
    **options: Any,
) -> tuple[Tensor, np.ndarray]:
    """Unit features of all images, on the CPU of every process.

    Whole batches go to the processes in turn, so that features do not depend on how many there are.
    All have the network of the main process, which is the one that checkpoints hold: on CPUs each
    process has batch norms of its own batches.

    Args:
        backbone, options: see ``embed_batches``.
        accelerator: the processes; None for this one alone.

    Returns:
        float32 (M, D) and, in ascending order, the places in ``images`` that could be read, int64
        (M,).

    Raises:
        UserError: on every process, what ``embed_batches`` raises on one.
    """
    features = torch.zeros(len(images), backbone.spec.embed_dim)
    readable = torch.zeros(len(images))
    several = accelerator if accelerator and accelerator.num_processes > 1 else None
    if several:
        broadcast(list(backbone.buffers()))  # in place
        options["share"] = several.process_index, several.num_processes

    def fill() -> None:
        for index, part in embed_batches(backbone, images, **options):
            features[index], readable[index] = part, 1.0

    together(several, fill) if several else fill()
    if several:  # each row is zero but on one process
        features, readable = (
            several.reduce(values.to(several.device), "sum").cpu()
            for values in (features, readable)
        )
    index = readable.nonzero()[:, 0]
    return features[index], index.numpy()


def embed_batches(
    backbone: Backbone,
    images: Pool | LabelledImages,
    *,
    batch_size: int = 128,
    num_workers: int = 0,
    cameras: np.ndarray | None = None,
    flip: bool = False,
    precision: str = "no",
    skip_corrupt: bool = False,
    title: str | None = None,
    share: tuple[int, int] = (0, 1),
    places: np.ndarray | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``(index, features)`` of each batch, in order: int64 (B,) and float32 (B, D).

    Features are of unit length, and on the CPU; the copy of a batch is waited for only once the
    next batch is under way. The network is in evaluation mode meanwhile, and afterwards in the mode
    it was in.

    Args:
        backbone: on its device, with ``.spec``; uint8 images (B, 3, H, W) to features (B, D).
        images: resized to the network's size; ``index`` is their place among all.
        batch_size: images at once.
        num_workers: processes that read images.
        cameras: int64 (N,), rows of the network's camera embedding, where it has one.
        flip: add the features of the mirrored images, as the papers do at test time.
        precision: "no" (float32), or autocast to "bf16" or "fp16".
        skip_corrupt: leave out images that cannot be read.
        title: of what is said of progress; None for nothing.
        share: (i, n) for every n-th batch, from the i-th on.
        places: int64 (M,), embed only these of the images; all when None.

    Raises:
        UserError: an image that cannot be read, or cameras are needed and not given.
        ValueError: an unknown ``precision``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    device = next(backbone.parameters()).device
    order = np.arange(len(images)) if places is None else places
    mine = order[np.arange(len(order)) // batch_size % share[1] == share[0]]
    size = backbone.spec.img_size
    names = ("images",) if cameras is None else ("images", "cameras")
    loader = image_loader(
        images, size, batch_size, num_workers, mine, skip_corrupt, cameras,
        interpolation=backbone.spec.interpolation,
    )  # fmt: skip
    under_way: tuple[Tensor, _Copy] | None = None
    shown = bool(title) and not share[0]
    with _evaluating(backbone), progress(len(mine), title or "", shown) as tick:
        for batch in loader:
            tick(len(batch["index"]) + len(batch["corrupt"]))
            if not len(batch["index"]):
                continue
            inputs = [batch[name].to(device, non_blocking=True) for name in names]
            copy = _Copy(_features(backbone, *inputs, flip=flip, dtype=PRECISIONS[precision]))
            if under_way is not None:
                yield under_way[0], under_way[1].wait()
            under_way = batch["index"], copy
        if under_way is not None:
            yield under_way[0], under_way[1].wait()


def on_device(backbone: Network, device: str | None) -> Network:
    """Move a network to the device of this name; by default that of ``default_device``.

    Raises:
        UserError: no such device, or none that works.
    """
    device = device or default_device()
    try:
        return backbone.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise UserError(f"--device {device}: cannot be used ({reason})") from error


def default_device() -> str:
    """The kind of device that training takes: a GPU, of any maker, or the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found else "cpu"


def require_finite(
    features: np.ndarray, names: Sequence[str], places: np.ndarray | None = None
) -> None:
    """Refuse features (N, D) that are NaN or infinite; row i is of ``names[places[i]]``.

    Raises:
        UserError: the first image that has such a feature, by name.
    """
    finite = np.isfinite(features).all(1)
    if not finite.all():
        bad = int(finite.argmin())
        refuse_not_finite(names[bad if places is None else int(places[bad])])


def refuse_not_finite(name: str) -> NoReturn:
    """Say that the features of an image of this name are NaN or infinite."""
    raise UserError(f"{name}: its features are not finite; broken weights, or try --precision no")


@torch.inference_mode()
def _features(
    backbone: Backbone, images: Tensor, *cameras: Tensor, flip: bool, dtype: torch.dtype | None
) -> Tensor:
    """float32 (B, D); the mirrored images go in a pass of their own, to need no more memory."""
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
        features = backbone(images, *cameras).float()
        if flip:
            features = features + backbone(images.flip(3), *cameras).float()
    return F.normalize(features, dim=1)


class _Copy:
    """Features on their way to the CPU: from a GPU through pinned memory, while it works on."""

    @torch.inference_mode()
    def __init__(self, features: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._target = features
        if features.device.type == "cuda":
            self._target = torch.empty(features.shape, pin_memory=True)
            self._target.copy_(features, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._target = features.cpu()

    def wait(self) -> Tensor:
        """The copy, complete, as an ordinary tensor."""
        if self._event is not None:
            self._event.synchronize()
        return self._target.clone()


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in, frozen ones too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
