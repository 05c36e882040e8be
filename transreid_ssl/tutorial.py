"""A small set of weights to try every command on, made anew from generated people."""

import time
from dataclasses import dataclass
from pathlib import Path

from transreid_ssl import shipped
from transreid_ssl.outputs import BACKBONE, MODEL, OUTPUTS

_NETWORK = "vit_nano_patch8_conv"
_PRETRAIN = (
    "--data.pool=demo:identities=100,images=8,height=64,width=32", f"--model.name={_NETWORK}",
    "--run.precision=no", "--run.epochs=10", "--run.checkpoint_every=1000",
    "--optim.warmup_epochs=1",
)  # fmt: skip
_FINETUNE = (
    f"--model.name={_NETWORK}", "--run.epochs=6", "--run.checkpoint_every=1000",
    "--optim.warmup_epochs=1", "--optim.lr=0.06", "--supervised.triplet_weight=0",
)  # fmt: skip


@dataclass(frozen=True)
class Tutorial:
    """Make a small set of weights of generated people: pre-trained, then fine-tuned.

    Example: ``python -m transreid_ssl.weights tutorial``. It takes about two minutes of a core's
    time, and goes on where it was stopped. The weights are for trying things: nobody is real on
    generated people. Other commands find them as they find those of any run.

    Args:
        out: The beginning of the two run folders' names.
    """

    out: str = f"{OUTPUTS}/tutorial"


def make_tutorial(options: Tutorial) -> tuple[Path, Path]:
    """Run both trainings, or what is left of them; returns the two weights files."""
    begin = time.monotonic()
    first, second = Path(f"{options.out}_pretrain"), Path(f"{options.out}_finetune")
    backbone, model = first / BACKBONE, second / MODEL
    _train("moco_pretrain", first, *_PRETRAIN)
    _train("supervised_finetune", second, f"--model.weights={backbone}", *_FINETUNE)
    print(f"{backbone}\n{model}\nmade in {time.monotonic() - begin:.0f} s")
    return backbone, model


def _train(recipe: str, folder: Path, *options: str) -> None:
    shipped.load_recipe(recipe).main([f"--run.output={folder}", *options])
