"""A pre-training run from its settings to backbone.safetensors: all recipes but for the method."""

import dataclasses
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import accelerate

from transreid_ssl.command import spelled
from transreid_ssl.data import (
    EpochSampler,
    Mates,
    MultiCrop,
    MultiCropConfig,
    Pool,
    ViewsDataset,
    open_pool,
    training_loader,
)
from transreid_ssl.errors import UserError
from transreid_ssl.logs import say
from transreid_ssl.models import MGN, STATISTICS, ViewBackbone
from transreid_ssl.models.architectures import MGNArchitecture, architecture
from transreid_ssl.outputs import BACKBONE, BEST, COPIES
from transreid_ssl.pretrain.distill import Distill
from transreid_ssl.pretrain.moments import Moments
from transreid_ssl.pretrain.own import FEW
from transreid_ssl.pretrain.settings import PretrainingConfig
from transreid_ssl.report import leave_page
from transreid_ssl.training import (
    Objective,
    Trainer,
    build_backbone_to_train,
    finish,
    start,
    train,
    training_pool,
)
from transreid_ssl.training.runfolder import goes_on
from transreid_ssl.words import counted

Config = TypeVar("Config", bound=PretrainingConfig)


def check_sizes(config: PretrainingConfig) -> None:
    """The network is built for the large views: a probe and fine-tuning see images of that size."""
    if tuple(config.views.global_size) != tuple(config.model.img_size):
        raise UserError(
            f"--views.global_size is {list(config.views.global_size)} and --model.img_size "
            f"{list(config.model.img_size)}: give both the same (height, width)"
        )


def check_network(config: PretrainingConfig) -> None:
    """An MGN has no vector that views could be compared by: its parts are learnt with labels."""
    if isinstance(architecture(config.model.name), MGNArchitecture):
        raise UserError(
            f"--model.name {config.model.name}: an MGN is not pre-trained; pre-train the ResNet "
            "below it (resnet50_reid, say), whose weights fine-tuning gives to all its branches"
        )


def without_weights(config: Config) -> Config:
    """The same settings, but for initial weights."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, weights=None))


def backbone_pair(
    config: PretrainingConfig, accelerator: accelerate.Accelerator
) -> tuple[ViewBackbone, ViewBackbone]:
    """The network that learns and drops paths, and the one that follows it and does not.

    The first has its initial weights, but where the run goes on: its checkpoint has them.
    """
    first = without_weights(config).model if goes_on(config.run) else config.model
    still = dataclasses.replace(config.model, drop_path=0.0, weights=None)
    pair = (dataclasses.replace(config, model=model) for model in (first, still))
    learner, follower = (student(each, accelerator) for each in pair)
    return learner, follower


def student(config: PretrainingConfig, accelerator: accelerate.Accelerator) -> ViewBackbone:
    """The network that learns, told the statistics that its images are normalised with."""
    backbone = build_backbone_to_train(config.model, accelerator)
    assert not isinstance(backbone, MGN)  # which check_network refuses
    chosen = STATISTICS[config.data.statistics]
    backbone.spec = dataclasses.replace(backbone.spec, mean=chosen.mean, std=chosen.std)
    return backbone


def pretrain(
    config: Config,
    origin: str,
    title: str,
    build_objective: Callable[[Config, accelerate.Accelerator], Objective],
    views: MultiCropConfig | None = None,
) -> None:
    """Pre-train, and leave the kept backbone in the run folder.

    Args:
        config: The recipe's settings.
        origin: Where they came from, to say so.
        title: What the recipe does, to say so.
        build_objective: Makes the method's module.
        views: The views to make; ``config.views`` when None.

    Raises:
        UserError: settings that do not fit each other, the pool or the run folder.
    """
    check_sizes(config)
    check_network(config)
    data = config.data
    accelerator, run, whole = start(config, origin, title, lambda: _open_pool(config))
    pool = training_pool(whole, data.max_bad_fraction, run, accelerator)
    if note := _few_for_views(config.views, pool):
        say(accelerator, note, logging.WARNING)
    objective = build_objective(config, accelerator)
    for line in _weigh_pairs(objective, config.views, pool):
        say(accelerator, line)
    views = views or config.views
    mates = Mates(pool.tracks) if views.mates == "track" else None
    if mates is not None:
        say(accelerator, mates.describe())
    dataset = ViewsDataset(pool, _maker(views, objective), config.run.seed, mates)

    def batches(trainer: Trainer) -> Iterator[dict[str, Any]]:
        """Step s sees the same global batch, in the same views, on any number of processes."""
        sampler = EpochSampler(
            len(pool), config.run.batch_size, config.run.seed,
            first_step=trainer.step, num_steps=trainer.plan.total_steps,
            rank=accelerator.process_index, world_size=accelerator.num_processes,
            accumulation=config.run.accumulation,
        )  # fmt: skip
        return iter(training_loader(dataset, sampler, config.run.num_workers))

    train(
        config, accelerator, run, objective, batches,
        steps_per_epoch=steps_an_epoch(len(pool), config.run.batch_size),
        data_key=whole.fingerprint,
        origin={"pool": pool.source, "fingerprint": whole.fingerprint},
        probe=config.probe, result=BACKBONE, best=BEST,
        max_bad_images=int(data.max_bad_fraction * len(pool)), images=pool,
        leave=lambda trainer, result: leave_page(trainer, result, pool),
        following=_what_next(config, objective, pool),
    )  # fmt: skip
    finish(accelerator)


def _few_for_views(views: MultiCropConfig, pool: Pool) -> str:
    """A word on views that were made for more images than there are; "" for enough."""
    if not views.num_local or len(pool) >= FEW:
        return ""
    return (
        "note: small crops beside large ones ask for millions of images, and here are "
        f"{len(pool):,}; views for thousands are chosen by --config auto"
    )


def _weigh_pairs(objective: Objective, views: MultiCropConfig, pool: Pool) -> list[str]:
    """Let the objective weigh pairs of images as the settings ask; returns what is said of it."""
    if views.doubt_mates:
        objective.doubt_mates()
    if views.certain_negatives == 1:
        return []
    moments = Moments(pool.tracks, views.certain_negatives)
    objective.weigh_negatives(moments)
    return [moments.describe()]


def _maker(views: MultiCropConfig, objective: Objective) -> MultiCrop:
    """What makes the views; erased pixels are to be near 0 after the network's normalisation."""
    spec = objective.spec
    erasing = dataclasses.replace(views.erasing, mean=spec.mean, std=spec.std)
    return MultiCrop(dataclasses.replace(views, erasing=erasing))


def _what_next(config: PretrainingConfig, objective: Objective, pool: Pool) -> str:
    """The command that makes something of the backbone that is left."""
    weights = Path(config.run.output, BACKBONE)
    if isinstance(objective, Distill):
        files = map(str, (weights, weights.with_name("network.onnx")))
        return f"python -m transreid_ssl.export {shlex.join(files)}"
    if not pool.generated:
        given = {"--weights": str(weights), "--images": pool.source}
        if Path(COPIES[0]).exists():  # perhaps of another network, which is not replaced
            given["--out"] = str(weights.with_name("whitened.safetensors"))
        return f"python -m transreid_ssl.whiten{spelled(given)}"
    size = ",".join(map(str, config.model.img_size))
    given = {
        "--model.weights": str(weights), "--model.name": config.model.name,
        "--model.img_size": f"[{size}]",
    }  # fmt: skip
    return f"python -m transreid_ssl finetune supervised{spelled(given)}"


def _open_pool(config: PretrainingConfig) -> Pool:
    pool = open_pool(config.data.pool, config.data.subset)
    if config.views.mates == "track" and pool.tracks is None:
        raise UserError(
            f"--views.mates track: {pool.source} does not tell which images are of one track; make "
            "a pool that does, of videos or of crops, with: python -m transreid_ssl.data tracks"
        )
    return pool


def steps_an_epoch(num_images: int, batch_size: int) -> int:
    """Whole batches of an epoch.

    Raises:
        UserError: there are fewer images than one batch takes.
    """
    if num_images < batch_size:
        raise UserError(
            f"{counted(num_images, 'image')} cannot fill one batch of {batch_size}: "
            "lower --run.batch_size or give a larger pool"
        )
    return num_images // batch_size
