"""Where recipes and commands leave what others take up, as long as nobody names another place."""

from pathlib import Path

from transreid_ssl.errors import UserError

BACKBONE, MODEL = "backbone.safetensors", "model.safetensors"
"""What pre-training and fine-tuning leave in the folder of a run."""
BEST = "best.safetensors"
"""What fine-tuning leaves beside: the network of its best probe."""

PRETRAINED = f"outputs/dino_pretrain/{BACKBONE}"
SUPERVISED = f"outputs/supervised_finetune/{MODEL}"
UDA = f"outputs/uda_finetune/{MODEL}"
USL = f"outputs/usl_finetune/{MODEL}"
SCORES, SUBSET = "outputs/cfs/scores.parquet", "outputs/cfs/subset.parquet"

MADE_BY = {
    PRETRAINED: "accelerate launch recipes/dino_pretrain.py",
    SUPERVISED: "accelerate launch recipes/supervised_finetune.py",
    UDA: "accelerate launch recipes/uda_finetune.py",
    USL: "accelerate launch recipes/usl_finetune.py",
    SCORES: "python -m transreid_ssl.cfs score",
    SUBSET: "python -m transreid_ssl.cfs select",
}


def require(path: str | Path, otherwise: str = "name another") -> None:
    """Raise ``UserError`` if ``path`` is no file; it says what makes it, ``otherwise`` what else.

    Both are left out for a path that is not in ``MADE_BY``.
    """
    if not Path(path).is_file():
        made_by = MADE_BY.get(str(path))
        advice = f"; make it with `{made_by}`, or {otherwise}" if made_by else ""
        raise UserError(f"{path}: there is no such file{advice}")
