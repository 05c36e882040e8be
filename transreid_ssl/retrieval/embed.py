"""Features of images: a model over a loader, with nothing waiting for anything it need not."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def embed(
    model: nn.Module,
    loader: Iterable[Mapping[str, Tensor]],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
    flip: bool = False,
    l2: bool = True,
    precision: str = "float32",
) -> Tensor:
    """The features of all images of ``loader``, in its order: float32 (N, D) on the CPU.

    The arguments are those of :func:`embed_batches`.

    Raises:
        ValueError: the loader gave nothing, or an unknown ``precision``.
    """
    batches = embed_batches(
        model, loader, mean=mean, std=std, device=device, flip=flip, l2=l2, precision=precision
    )
    parts = [features for _, features in batches]
    if not parts:
        raise ValueError("the loader gave no images")
    return torch.cat(parts)


def embed_batches(
    model: nn.Module,
    loader: Iterable[Mapping[str, Tensor]],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
    flip: bool = False,
    l2: bool = True,
    precision: str = "float32",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``(index, features)`` for each batch: int64 (B,) and float32 (B, D), on the CPU.

    The copy of a batch's features is waited for only once the next batch is under way. The model
    is in evaluation mode meanwhile, and afterwards in the mode it was in.

    Args:
        model: already on ``device``; images float32 (B, 3, H, W) to features (B, D).
        loader: batches ``{"images": uint8 (B, 3, H, W), "index": int64 (B,)}``; where they hold
            "cameras" too, int64 (B,), the model is given them.
        mean, std: of the three channels, as the weights' header says.
        flip: add the features of the mirrored images, as the papers do at test time.
        l2: scale features to unit length (after adding the mirrored ones).
        precision: "float32", or autocast to "bfloat16" or "float16".
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    device = torch.device(device)
    shift = torch.tensor(mean, device=device).mul(255).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=device).mul(255).view(1, 3, 1, 1)
    under_way: tuple[Tensor, _Copy] | None = None
    with _evaluating(model):
        for batch in loader:
            images = batch["images"].to(device, non_blocking=True).float().sub_(shift).div_(scale)
            cameras = batch.get("cameras")
            extra = () if cameras is None else (cameras.to(device, non_blocking=True),)
            features = _features(model, images, extra, flip, PRECISIONS[precision])
            copy = _Copy(F.normalize(features, dim=1) if l2 else features)
            if under_way is not None:
                yield under_way[0], under_way[1].wait()
            under_way = batch["index"], copy
        if under_way is not None:
            yield under_way[0], under_way[1].wait()


@torch.inference_mode()
def _features(
    model: nn.Module,
    images: Tensor,
    extra: tuple[Any, ...],
    flip: bool,
    dtype: torch.dtype | None,
) -> Tensor:
    """float32 (B, D); the mirrored images go in a pass of their own, to need no more memory."""
    autocast = torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None)
    with autocast:
        features = model(images, *extra).float()
        return features + model(images.flip(3), *extra).float() if flip else features


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
