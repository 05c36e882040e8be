"""What every recipe does first and last: processes, run folder, images, and a clean end."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import accelerate
import torch
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, set_seed

from transreid_ssl import logs
from transreid_ssl.data import Pool, find_broken, leave_out
from transreid_ssl.errors import UserError
from transreid_ssl.machine import num_cores
from transreid_ssl.models import (
    Backbone,
    build_backbone,
    find_weights,
    is_timm,
    load_weights,
    read_spec,
)
from transreid_ssl.outputs import MADE_BY, require
from transreid_ssl.processes import on_all, on_main, together
from transreid_ssl.training import trackers
from transreid_ssl.training.config import as_plain, differences
from transreid_ssl.training.cpu import use_cpu
from transreid_ssl.training.health import all_finite
from transreid_ssl.training.measuring import steps_to_measure
from transreid_ssl.training.runfolder import RunFolder, goes_on
from transreid_ssl.training.settings import BackboneSettings, RunSettings
from transreid_ssl.words import counted

Images = TypeVar("Images")


def start(
    config: Any, origin: str, recipe: str, open_images: Callable[[], Images]
) -> tuple[accelerate.Accelerator, RunFolder, Images]:
    """Start Accelerate, open the images, claim the run folder and say what is about to run.

    Images and initial weights come first: what cannot be trained on must not cost an earlier run
    that is to be overwritten.

    Args:
        config: A recipe's settings, with ``run`` and ``model`` among them.
        origin: Where they came from, to say so.
        recipe: Its name, to say so.
        open_images: Called on every process; its result is returned.

    Raises:
        UserError: processes have different settings, the images or the initial weights cannot be
            read, the folder belongs to another run, or the precision or the tracker is not to be
            had here.
    """
    settings: RunSettings = config.run
    trackers.check(settings.tracker)
    accelerator = _make_accelerator(settings)
    if accelerator.device.type == "cpu":
        if (settings.num_threads or 0) > num_cores():
            logs.say(accelerator, f"--run.num_threads: {num_cores()}, as many as there are cores")
        use_cpu(settings.num_workers, settings.num_threads)
    _check_alike(accelerator, config)
    images = on_all(accelerator, open_images)
    if config.model.weights and not goes_on(settings):
        on_all(accelerator, lambda: _check_weights(config.model))
    run = RunFolder(settings.output, accelerator.is_main_process)

    def claim() -> None:
        run.claim(config, settings.overwrite)
        logs.write_to(run.path)

    on_main(accelerator, claim)
    if settings.tracker:
        together(accelerator, lambda: trackers.start(accelerator, as_plain(config), recipe))
    set_seed(settings.seed)
    where = "to be measured, nothing is kept" if steps_to_measure() else f"run folder {run.path}"
    sharded = ", weights sharded" * (settings.shard and accelerator.num_processes > 1)
    logs.say(
        accelerator,
        f"{recipe}: {origin}; {where}; "
        f"{counted(accelerator.num_processes, 'process', 'processes')} on "
        f"{accelerator.device.type}, precision {_precision(accelerator)}{sharded}",
    )
    return accelerator, run, images


def _check_alike(accelerator: accelerate.Accelerator, config: Any) -> None:
    """Refuse processes with different settings, as machines that are not alike may choose them."""
    first = on_main(accelerator, lambda: as_plain(config))

    def check() -> None:
        found = [
            line for line in differences(first, as_plain(config))
            if not line.startswith(("run.num_workers ", "run.num_threads "))
        ]  # fmt: skip
        if found:
            raise UserError(
                f"processes have different settings: {'; '.join(found[:3])} (the first one's stand "
                "first); give these by hand"
            )

    together(accelerator, check)


def _check_weights(model: BackboneSettings) -> None:
    path = model.weights
    if path in MADE_BY:
        require(path, "name other weights with --model.weights")
    if is_timm(model.name):
        find_weights(path)  # timm's own files do not say which network they are of
    else:
        read_spec(path)


def _precision(accelerator: accelerate.Accelerator) -> str:
    """What is computed in, which need not be what was asked for."""
    asked = accelerator.mixed_precision
    if asked == "no" or accelerator.native_amp:
        return asked
    return f"no ({asked} needs {'a GPU' if asked == 'fp16' else 'a GPU or a CPU with AVX-512'})"


def _make_accelerator(settings: RunSettings) -> accelerate.Accelerator:
    for other in ("fsdp", "deepspeed"):
        if os.environ.get(f"ACCELERATE_USE_{other.upper()}") == "true":
            raise UserError(
                f"accelerate launch was asked for {other}, and networks are sharded here by "
                f"--run.shard true: leave use_{other} out, here or in what accelerate config wrote"
            )
    try:
        accelerator = accelerate.Accelerator(
            mixed_precision=settings.precision,
            log_with=settings.tracker,
            project_dir=settings.output,
            kwargs_handlers=[
                # Gradients as views of the buckets save a copy.
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=timedelta(minutes=settings.timeout_minutes)),
            ],
        )
    except ValueError as error:
        raise UserError(f'--run.precision "{settings.precision}": {error}') from error
    if accelerator.device.type == "cpu" and not has_fast_bf16():
        # As Accelerate does for fp16: float32 is ten times as fast as bf16 that is emulated.
        accelerator.native_amp = False
    return accelerator


def has_fast_bf16() -> bool:
    """Whether oneDNN computes in bf16 on this processor."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def training_pool(
    whole: Pool, max_bad_fraction: float, run: RunFolder, accelerator: accelerate.Accelerator
) -> Pool:
    """A pool without its unreadable images.

    What is left out is found once, when a run begins, and belongs to the run: an image that cannot
    be read later, or can be read again, does not change which images its steps see.

    Raises:
        UserError: more of them than allowed.
    """

    def broken() -> tuple[list[int], str]:
        """One process looks for all: a passing fault would give each another pool."""
        key, known = whole.fingerprint, run.read_left_out()
        if run.has_checkpoints():
            if not known:
                raise UserError(
                    f"{run.path / 'left_out.json'}: is missing, and says which images this run "
                    "leaves out; put it back, choose another --run.output, or --run.overwrite true "
                    "to begin anew"
                )
            if known.get("pool") != key:
                return [], ""  # of other images, which the loop refuses
        elif known.get("pool") != key:
            report = run.path / "bad_images.txt"
            found, note = find_broken(whole, max_bad_fraction, report_path=report)
            known = {"pool": key, "indices": found, "note": note}
            run.write_left_out(known)
        return known["indices"], known["note"]

    pool = leave_out(whole, *on_main(accelerator, broken))
    logs.say(accelerator, pool.describe())
    return pool


def build_backbone_to_train(
    settings: BackboneSettings,
    accelerator: accelerate.Accelerator,
    num_cameras: int = 0,
    feature_norm: bool = False,
) -> Backbone:
    """The network to train, with its initial weights.

    Args:
        settings: Which network.
        accelerator: Says on its main process what was loaded.
        num_cameras: Of the labelled set, for ``camera_embedding``.
        feature_norm: Let the feature end in a batch norm, as training on clusters wants it.

    Raises:
        UserError: unknown network, unreadable weights, or cameras asked for where none are known.
    """
    if settings.camera_embedding and not num_cameras:
        raise UserError("--model.camera_embedding: no cameras are known here; set it to false")
    backbone = build_backbone(
        settings.name, img_size=settings.img_size, drop_path=settings.drop_path,
        stride=settings.stride, gem=settings.gem, position_resampling=settings.position_resampling,
        interpolation=settings.interpolation,
        num_cameras=num_cameras if settings.camera_embedding else 0,
        camera_weight=settings.camera_weight, jpm=settings.jpm, feature_norm=feature_norm,
        registers=settings.registers, token_norm=settings.token_norm,
    )  # fmt: skip
    if settings.weights:
        logs.say(accelerator, load_weights(backbone, settings.weights))
        if not all_finite(backbone.state_dict()):
            raise UserError(f"--model.weights {settings.weights}: some of it is not finite")
    if settings.gradient_checkpointing:
        backbone.set_grad_checkpointing(True)
    return backbone


def finish(accelerator: accelerate.Accelerator) -> None:
    """End trackers, processes and the log, so that no process waits for another."""
    accelerator.free_memory()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    logs.close()
