"""From a weights file to the features of images: what the commands that embed images share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from transreid_ssl import training
from transreid_ssl.errors import UserError
from transreid_ssl.outputs import OUTPUTS, newest_weights

if TYPE_CHECKING:
    from transreid_ssl.models import Backbone


@dataclass(frozen=True)
class EmbeddingSettings:
    """How to embed images; every choice that the weights file makes itself is left to it.

    Args:
        weights: Any weights file, folder or Hugging Face id; by default the newest
            model.safetensors or backbone.safetensors of a run in outputs/.
        feature: Take features "before" or "after" the batch norm that some fine-tuned networks end
            with; by default as they were meant.
        flip: Add the features of the mirrored image, as papers do; doubles the time.
        batch_size: Images at once.
        num_workers: Decoding processes.
        precision: "no" is float32; bf16 is faster on recent GPUs.
        device: By default a GPU where there is one.
    """

    weights: str | None = None
    feature: Literal["before", "after"] | None = None
    flip: bool = False
    batch_size: PositiveInt = 128
    num_workers: NonNegativeInt = 2
    precision: Literal["no", "bf16", "fp16"] = "no"
    device: str | None = None

    @property
    def embedding(self) -> dict[str, Any]:
        """Those that ``embed_images`` takes."""
        names = ("flip", "batch_size", "num_workers", "precision")
        return {name: getattr(self, name) for name in names}


def load_model(settings: EmbeddingSettings) -> tuple[str, "Backbone"]:
    """The weights file that was taken, and its network on its device.

    Says which one was taken where none was named, and what may surprise about how it was read.

    Raises:
        UserError: no weights, unreadable ones, ``feature`` "after" without a norm there, or a
            device that is not there.
    """
    from transreid_ssl.models import load_backbone

    weights = settings.weights or _newest()
    norm = {} if settings.feature is None else {"feature_norm": settings.feature == "after"}
    model = load_backbone(weights, **norm)
    for line in model.load_report.surprises():
        print(f"note: {weights}: {line}", flush=True)
    if any(name.startswith("bottleneck.") for name in model.load_report.missing):
        raise UserError(
            f"{weights}: holds no batch norm to take features after; leave --feature out"
        )
    if device_of(settings) == "cpu":
        training.share_cores(settings.num_workers)
    try:
        return weights, model.to(device_of(settings))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise UserError(f"--device {settings.device}: cannot be used ({reason})") from error


def _newest() -> str:
    found = newest_weights()
    if not found:
        raise UserError(
            f"no weights: no run in {OUTPUTS}/ has left any; make some with `python -m "
            "transreid_ssl pretrain dino`, or name a file with --weights"
        )
    count = f"of {len(found)} " if len(found) > 1 else ""
    print(f"--weights {found[0]}: the newest {count}in {OUTPUTS}/", flush=True)
    return str(found[0])


def device_of(settings: EmbeddingSettings) -> str:
    """The device asked for, or the one that training takes: a GPU, of any maker, or the CPU."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return settings.device or (found.type if found else "cpu")
