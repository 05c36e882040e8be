"""The two stages of fine-tuning that recipes are made of: with labels, and on clusters."""

import dataclasses
import logging
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import numpy as np

from transreid_ssl.command import spelled
from transreid_ssl.data import (
    ClusterSampler,
    IdentitySampler,
    LabelledDataset,
    LabelledImages,
    ReIDProtocol,
    check_protocol,
    open_pool,
    open_reid,
    training_loader,
)
from transreid_ssl.data.budget import budgeted, describe_budget
from transreid_ssl.data.reid import untestable
from transreid_ssl.data.views import ReIDAugment
from transreid_ssl.errors import UserError
from transreid_ssl.files import fingerprint
from transreid_ssl.finetune.clusters import ClusterObjective
from transreid_ssl.finetune.pseudo_labels import Labeller
from transreid_ssl.finetune.settings import LabelledSettings, TargetSettings
from transreid_ssl.finetune.supervised import set_statistics
from transreid_ssl.finetune.trainings import ClusterTraining, LabelledTraining
from transreid_ssl.logs import say
from transreid_ssl.models import Backbone, BackboneSpec, read_spec
from transreid_ssl.outputs import BEST, MODEL
from transreid_ssl.processes import on_all
from transreid_ssl.report import leave_page
from transreid_ssl.training import RunFolder, Trainer, build_backbone_to_train, train
from transreid_ssl.training.sharding import whole_network

RESULTS = {"result": MODEL, "best": BEST}
Training = LabelledTraining | ClusterTraining


def train_with_labels(
    config: LabelledTraining,
    accelerator: accelerate.Accelerator,
    run: RunFolder,
    protocol: ReIDProtocol,
) -> Path:
    """Fine-tune with labels; returns the backbone's file in the run folder.

    Args:
        protocol: what ``open_labelled`` gives.
    """
    say(accelerator, "\n".join([protocol.describe(), *check_protocol(protocol)]))
    data = config.data
    budget = data.label_budget, data.label_budget_by, config.run.seed, data.label_list
    images = budgeted(protocol.train, *budget, data.label_repeat)
    if images is not protocol.train:
        said = describe_budget(protocol.train, images, *budget[:2], budget[3], data.label_repeat)
        say(accelerator, said)

    backbone = build_backbone_to_train(config.model, accelerator, images.num_cameras)
    set_statistics(backbone, config.data.statistics, config.model.weights)
    dataset = training_images(config, images, backbone.spec)
    objective = config.objective(backbone, dataset.num_identities)

    def sampler(**steps: int) -> IdentitySampler:
        """P x K batches. Step s sees the same global batch, on any number of processes."""
        return IdentitySampler(
            dataset.labels, config.run.seed,
            identities_per_batch=config.run.batch_size // config.data.images_per_identity,
            images_per_identity=config.data.images_per_identity,
            spread=config.data.spread_identities, by_images=config.data.epoch == "images",
            draw_few=config.data.few_images == "draw",
            **shares(config, accelerator), **steps,
        )  # fmt: skip

    def batches(trainer: Trainer) -> Iterator[dict[str, Any]]:
        rest = sampler(first_step=trainer.step, num_steps=trainer.plan.total_steps)
        return iter(training_loader(dataset, rest, config.run.num_workers))

    return train(
        config, accelerator, run, objective, batches,
        steps_per_epoch=sampler(num_steps=0).steps_per_epoch,
        data_key=fingerprint([images.pool.fingerprint, dataset.labels.tobytes()]),
        images=images.pool, **ends(config, accelerator, run),
        leave=lambda trainer, result: leave_page(trainer, result, images),
    )  # fmt: skip


def train_on_clusters(
    config: ClusterTraining,
    accelerator: accelerate.Accelerator,
    run: RunFolder,
    images: LabelledImages,
    name: str = "usl",
) -> Path:
    """Train without labels; returns the backbone's file in the run folder.

    Args:
        images: what ``open_target`` gives; their labels are not used.
        name: what the weights' header calls it: "usl", or "uda" after training on a source.
    """
    say(accelerator, images.pool.describe())

    backbone = _with_neck(config, accelerator, images.num_cameras)
    dataset = training_images(config, images, backbone.spec)
    objective = config.objective(backbone)
    objective.name = name
    labeller = Labeller(
        images, config.clusters, accelerator, config.run.num_workers,
        dataset.cameras if backbone.spec.num_cameras else None, config.data.max_bad_fraction,
    )  # fmt: skip

    def batches(trainer: Trainer) -> Iterator[dict[str, Any]]:
        """Epoch after epoch: cluster all images, then train on batches of the clusters."""
        plan = trainer.plan
        for epoch in range(trainer.step // plan.steps_per_epoch, plan.epochs):
            if objective.epoch != epoch:  # else it was resumed in its midst
                relabel(objective, labeller, trainer, epoch)
            labels = objective.labels
            sampler = ClusterSampler(
                labels, config.run.seed,
                clusters_per_batch=config.run.batch_size // config.data.images_per_cluster,
                images_per_cluster=config.data.images_per_cluster,
                steps_per_epoch=plan.steps_per_epoch, cameras=cameras_to_cross(config, images),
                whole_passes=config.data.whole_passes,
                first_step=trainer.step, num_steps=(epoch + 1) * plan.steps_per_epoch,
                **shares(config, accelerator),
            )  # fmt: skip
            pseudo = dataclasses.replace(images, identities=labels)
            epoch_images = training_images(config, pseudo, backbone.spec)
            yield from training_loader(epoch_images, sampler, config.run.num_workers)

    return train(
        config, accelerator, run, objective, batches,
        steps_per_epoch=config.clusters.steps_per_epoch,
        data_key=fingerprint([images.pool.fingerprint, dataset.cameras.tobytes()]),
        images=images.pool, **ends(config, accelerator, run),
        leave=lambda trainer, result: leave_page(trainer, result, images, objective.labels),
    )  # fmt: skip


def _with_neck(
    config: ClusterTraining, accelerator: accelerate.Accelerator, num_cameras: int
) -> Backbone:
    """The network to train on clusters, whose feature ends in a batch norm."""
    backbone = build_backbone_to_train(config.model, accelerator, num_cameras, feature_norm=True)
    if config.model.weights and not read_spec(config.model.weights).feature_norm:
        # A neck that was there for a classifier: its network is meant to be used without.
        backbone.bottleneck.reset_parameters()
    set_statistics(backbone, config.data.statistics, config.model.weights)
    return backbone


def relabel(objective: ClusterObjective, labeller: Labeller, trainer: Trainer, epoch: int) -> None:
    """Begin an epoch: cluster the features of all images as they are now."""
    begin = time.monotonic()
    with trainer.clock.untimed():
        found = labeller(whole_network(objective.backbone), epoch, trainer.plan.epochs)
        objective.begin_epoch(epoch, found.labels, found.centres)
        trainer.log(found.figures, unless="clusters/found")
        trainer.run.draw_curves(at_most_every=60)
    trainer.say(f"epoch {epoch}: {found.describe()} ({time.monotonic() - begin:.1f} s)")


def open_labelled(settings: LabelledSettings) -> ReIDProtocol:
    """The labelled set to train on."""
    return open_reid(settings.name, settings.root, settings.pattern, purpose="train")


def open_target(settings: TargetSettings) -> LabelledImages:
    """The images to train on; of a labelled set those for training.

    Raises:
        UserError: no such set, or cameras are asked for that are not known.
    """
    if settings.name == "pool":
        pool = open_pool(settings.root or "demo")
        images = LabelledImages(pool, np.full(len(pool), -1))
    else:
        where = settings.name, settings.root, settings.pattern
        images = open_reid(*where, purpose="train", beside=("pool",)).train
    if settings.cross_camera and images.cameras is None:
        raise UserError(
            f"--data.cross_camera: the cameras of {settings.name} are not known; set it to null or "
            "false, or give a --data.pattern with a group (?P<camera>…)"
        )
    return images


def cameras_to_cross(config: ClusterTraining, images: LabelledImages) -> np.ndarray | None:
    """The cameras that the images of a cluster should differ in, or None."""
    return None if config.data.cross_camera is False else images.cameras


# -- what both stages share


def training_images(
    config: Training, images: LabelledImages, spec: BackboneSpec
) -> LabelledDataset:
    """Augmented images under the network's size and statistics, which erasing fills with."""
    erasing = dataclasses.replace(config.augment.erasing, mean=spec.mean, std=spec.std)
    augment = dataclasses.replace(config.augment, size=config.model.img_size, erasing=erasing)
    return LabelledDataset(images, ReIDAugment(augment), config.run.seed)


def shares(config: Training, accelerator: accelerate.Accelerator) -> dict[str, Any]:
    """Which part of every global batch this process takes."""
    return {
        "rank": accelerator.process_index,
        "world_size": accelerator.num_processes,
        "accumulation": config.run.accumulation,
    }


def ends(config: Training, accelerator: accelerate.Accelerator, run: RunFolder) -> dict[str, Any]:
    """What is evaluated meanwhile, what is kept, what the weights say of their data, what is next.

    Without a set of its own the probe looks at the queries and the gallery of the target.
    """
    data = config.data
    named = data.name if data.name != "pool" else data.root or "demo"
    where = data.name, data.root, data.pattern
    testable = data.name != "pool"
    if testable and (reason := on_all(accelerator, lambda: untestable(open_reid(*where)))):
        testable = False
        if config.probe.data is None:
            say(accelerator, f"no probe on {data.name}: {reason}", logging.WARNING)
    following = None if run.stage else what_next(config, testable)
    probe = config.probe
    if testable and probe.data is None:  # training needs no query, so that a set may have none
        probe = dataclasses.replace(probe, data=data.name, root=data.root, pattern=data.pattern)
    return {"probe": probe, "origin": {"data": named}, "following": following} | RESULTS


def what_next(config: Training, testable: bool) -> str:
    """The command that looks at what was learnt: on the set itself, if it has queries."""
    weights = {"--weights": str(Path(config.run.output, MODEL))}
    if testable:  # which the weights know by its name and its place
        return f"python -m transreid_ssl.evaluate{spelled(weights)}"
    images = shlex.quote(config.data.root or "demo")
    return f"python -m transreid_ssl.cluster {images}{spelled(weights)}"
