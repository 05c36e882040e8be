"""Which images make up which step: pure functions of (seed, step), so a run can begin anywhere.

A sampler yields, for one process, lists of items; one list is one micro-batch. An optimiser step
takes one *global batch*, cut into ``accumulation`` micro-batches for each of ``world_size``
processes. The global batch does not depend on either number, so two processes of 4 images see
what one process of 8 sees, and a resumed run sees what an unbroken one would have seen.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from einops import rearrange

from transreid_ssl.errors import UserError
from transreid_ssl.words import counted

Item = tuple[int, ...]


class StepSampler(ABC):
    """The contract: the batches of each epoch, one a step, cut into shares of the processes.

    ``num_steps`` is the length of the whole run; steps ``first_step`` to ``num_steps - 1`` are
    yielded. Subclasses set ``steps_per_epoch`` and give ``_batches``.
    """

    steps_per_epoch: int

    num_steps: int
    first_step: int
    rank: int
    world_size: int
    accumulation: int

    def __init__(
        self,
        batch_size: int,
        *,
        num_steps: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % (world_size * accumulation):
            raise UserError(
                f"--run.batch_size {batch_size} cannot be shared by {world_size} processes x "
                f"{accumulation} accumulation steps; choose a multiple of "
                f"{world_size * accumulation}"
            )
        self.batch_size = batch_size
        self.num_steps, self.first_step = num_steps, first_step
        self.rank, self.world_size, self.accumulation = rank, world_size, accumulation
        self._epoch, self._rows = -1, np.empty(0)

    @property
    def steps_per_pass(self) -> int:
        """Steps until images are dealt anew, which is usually an epoch."""
        return self.steps_per_epoch

    @abstractmethod
    def _batches(self, epoch: int) -> np.ndarray:
        """All batches of a pass: int64 (steps_per_pass, batch_size, fields of an item)."""

    def global_batch(self, step: int) -> list[Item]:
        """The items of one step over all processes, each (pass, index, …)."""
        epoch, position = divmod(step, self.steps_per_pass)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._batches(epoch)
        return [(epoch, *item) for item in self._rows[position].tolist()]

    def __len__(self) -> int:
        """How many micro-batches this process will be given."""
        return max(0, self.num_steps - self.first_step) * self.accumulation

    def __iter__(self) -> Iterator[list[Item]]:
        micro = self.batch_size // (self.world_size * self.accumulation)
        for step in range(self.first_step, self.num_steps):
            batch = self.global_batch(step)
            for round_ in range(self.accumulation):
                start = (round_ * self.world_size + self.rank) * micro
                yield batch[start : start + micro]


class EpochSampler(StepSampler):
    """Every image once an epoch, in an order drawn from (seed, epoch); yields (epoch, index).

    The images left over at the end of an epoch, fewer than a batch, sit that epoch out.
    ``batch_size`` is global: that of one optimiser step over all processes.

    Raises:
        UserError: the batch cannot be shared, or there are fewer images than one batch takes.
    """

    steps_per_epoch: int
    num_images: int
    seed: int

    def __init__(self, num_images: int, batch_size: int, seed: int, **steps: int) -> None:
        super().__init__(batch_size, **steps)
        if num_images < batch_size:
            raise UserError(
                f"--run.batch_size {batch_size} is more than the {counted(num_images, 'image')} of "
                "the pool; choose a smaller batch or a larger pool"
            )
        self.num_images, self.seed = num_images, seed
        self.steps_per_epoch = num_images // batch_size

    def _batches(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_images)
        return order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size, 1)


class IdentitySampler(StepSampler):
    """Batches of P identities x K images, as the triplet loss wants; yields (epoch, index, copy).

    In an epoch each identity's images are shuffled and cut into groups of K; what is left over sits
    the epoch out. An identity with fewer than K images gives one group in which images repeat, told
    apart by ``copy`` so that each copy is augmented differently. Groups are dealt so that no batch
    holds an identity twice and the epoch has as many batches as possible: ``steps_per_epoch``, the
    same for every epoch. Identities below 0 (distractors, outliers) are left out.

    With ``draw_few`` the images of an identity with fewer than K are drawn with replacement.

    With ``by_images`` an epoch has as many batches as its images fill, as LUPerson counts; passes
    over the groups, dealt as above, then follow one another whatever epoch it is.

    A batch holds the images of one identity after another, so that a part of it, which a process or
    a micro-batch gets, has whole identities; with ``spread`` every part has some images of all.

    Raises:
        UserError: too few identities, or these (with ``spread`` their images) cannot be shared by
            the processes.
    """

    steps_per_epoch: int
    spread: bool

    def __init__(
        self,
        identities: np.ndarray,
        seed: int,
        *,
        identities_per_batch: int = 16,
        images_per_identity: int = 4,
        spread: bool = False,
        by_images: bool = False,
        draw_few: bool = False,
        **steps: int,
    ) -> None:
        super().__init__(identities_per_batch * images_per_identity, **steps)
        shares, self.spread = self.world_size * self.accumulation, spread
        self._draw_few: bool = draw_few
        shared = images_per_identity if spread else identities_per_batch
        if shared % shares:
            what = "images (--data.images_per_identity)" if spread else "identities"
            raise UserError(
                f"--run.batch_size {self.batch_size}: its {shared} {what} cannot be shared by "
                f"{self.world_size} processes x {self.accumulation} accumulation steps; "
                f"choose a multiple of {shares}"
            )
        self.seed = seed
        self.identities_per_batch = identities_per_batch
        self.images_per_identity = images_per_identity
        identities = np.asarray(identities)
        self._images = np.flatnonzero(identities >= 0)
        _, self._labels, self._counts = np.unique(
            identities[self._images], return_inverse=True, return_counts=True
        )
        if len(self._counts) < identities_per_batch:
            raise UserError(
                f"a batch takes {identities_per_batch} identities x {images_per_identity} images, "
                f"but the training set has {counted(len(self._counts), 'identity', 'identities')}; "
                "lower --run.batch_size (of a first stage with labels --source_training.batch_size)"
                f" to {len(self._counts) * images_per_identity} or less"
            )
        self._groups = np.maximum(1, self._counts // images_per_identity)
        self._pass: int = _most_batches(self._groups, identities_per_batch)
        filled = max(1, len(self._images) // self.batch_size)
        self.steps_per_epoch = filled if by_images else self._pass

    @property
    def steps_per_pass(self) -> int:
        """Steps until all groups are dealt anew."""
        return self._pass

    def _batches(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        dealt = _deal(self._groups, self.identities_per_batch, self._pass, rng).ravel()
        # Ordered by identity, shuffled within: those of identity i begin at starts[i].
        images = self._images[np.lexsort((rng.random(len(self._labels)), self._labels))]
        starts = np.cumsum(self._counts) - self._counts
        group = _occurrence(dealt)[:, None]  # which of its identity's groups, (T * P, 1)
        place = group * self.images_per_identity + np.arange(self.images_per_identity)
        counts = self._counts[dealt][:, None]
        copy, within = np.divmod(place, counts)  # (T * P, K)
        if self._draw_few:
            few = counts < self.images_per_identity
            within = np.where(few, rng.integers(counts, size=place.shape), within)
            copy = np.where(few, np.arange(place.shape[1]), copy)
        items = np.stack([images[starts[dealt][:, None] + within], copy], axis=-1)
        order = "(images identities)" if self.spread else "(identities images)"
        return rearrange(
            items, f"(steps identities) images fields -> steps {order} fields", steps=self._pass,
        )  # fmt: skip


class ClusterSampler(StepSampler):
    """Batches of P clusters x K images for so many steps an epoch; yields (epoch, index, copy).

    Clusters change from epoch to epoch and so does their number, but not the length of an epoch:
    passes over all clusters, each in an order of its own, follow one another until it is full. A
    pass takes K images of each cluster that it holds. ``copy`` counts how often an image was there
    before in the epoch, so that it is augmented differently each time. Labels below 0 (outliers)
    are left out.

    Where cameras are known the K images are drawn as in Cluster Contrast (arXiv 2103.11568): one
    at random, then K - 1 of those of other cameras only, or, where there are none, of the others
    of its camera. They are K - 1 different images if there are K or more to choose from, and are
    drawn with replacement if there are fewer. An image alone in its cluster is repeated (theirs
    comes once). Without cameras all images of a cluster come before any repeats.

    The next pass begins within a batch, which may then hold a cluster twice; with ``whole_passes``
    each pass drops the clusters that do not fill a batch, as theirs do, if there are enough of
    them for one.

    Raises:
        UserError: no cluster, or a batch that cannot be shared.
    """

    steps_per_epoch: int
    seed: int
    images_per_cluster: int
    cross_camera: bool
    whole_passes: bool

    def __init__(
        self,
        labels: np.ndarray,
        seed: int,
        *,
        clusters_per_batch: int = 32,
        images_per_cluster: int = 8,
        steps_per_epoch: int = 200,
        cameras: np.ndarray | None = None,
        whole_passes: bool = False,
        **steps: int,
    ) -> None:
        super().__init__(clusters_per_batch * images_per_cluster, **steps)
        self.whole_passes = whole_passes
        self.seed, self.steps_per_epoch = seed, steps_per_epoch
        self.images_per_cluster, self.cross_camera = images_per_cluster, cameras is not None
        labels = np.asarray(labels)
        images = np.flatnonzero(labels >= 0)
        if not len(images):
            raise UserError("all images are outliers: there is no cluster to take images from")
        cameras = np.zeros(len(labels), np.int64) if cameras is None else np.asarray(cameras)
        order = images[np.lexsort((cameras[images], labels[images]))]
        _, counts = np.unique(labels[images], return_counts=True)
        ends = np.cumsum(counts)[:-1]
        self._members = np.split(order, ends)  # of each cluster, by camera
        self._seen_by = np.split(cameras[order], ends)

    def _batches(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        per_batch, clusters = self.batch_size // self.images_per_cluster, len(self._members)
        groups = self.steps_per_epoch * per_batch
        dropped = clusters % per_batch if self.whole_passes and clusters >= per_batch else 0
        passes = -(-groups // (clusters - dropped))
        order = [rng.permutation(clusters)[dropped:] for _ in range(passes)]
        drawn = [self._draw(c, rng) for c in np.concatenate(order)[:groups].tolist()]
        images = np.concatenate(drawn)
        items = np.stack([images, _occurrence(images)], axis=-1)
        return items.reshape(self.steps_per_epoch, self.batch_size, 2)

    def _draw(self, cluster: int, rng: np.random.Generator) -> np.ndarray:
        """K images of one cluster."""
        members, cameras = self._members[cluster], self._seen_by[cluster]
        number, size = self.images_per_cluster, len(members)
        if not self.cross_camera:
            return np.resize(members[rng.choice(size, min(number, size), replace=False)], number)
        if size == 1:
            return np.repeat(members, number)
        first = int(rng.integers(size))
        # The images left out stand together: those of the first one's camera, or itself alone.
        start = int(cameras.searchsorted(cameras[first], "left"))
        end = int(cameras.searchsorted(cameras[first], "right"))
        if end - start == size:
            start, end = first, first + 1
        others = size - (end - start)
        if others < number:
            picks = rng.integers(others, size=number - 1)
        else:
            picks = rng.choice(others, number - 1, replace=False)
        picks[picks >= start] += end - start
        return members[np.concatenate([[first], picks])]


def _most_batches(groups: np.ndarray, per_batch: int) -> int:
    """The largest T for which T batches of ``per_batch`` different identities exist.

    They exist exactly if the groups, at most T an identity, are enough for T batches.
    """
    batches = int(groups.sum()) // per_batch
    while np.minimum(groups, batches).sum() < batches * per_batch:
        batches = int(np.minimum(groups, batches).sum()) // per_batch
    return batches


def _deal(groups: np.ndarray, per_batch: int, batches: int, rng: np.random.Generator) -> np.ndarray:
    """Random identities int64 (batches, per_batch), none twice in a row, none more than ``groups``.

    An identity with as many groups left as there are batches left must be taken now; the others are
    drawn in proportion to what they have left (the Gumbel top-k trick).
    """
    capped = np.minimum(groups, batches)
    deck = rng.permutation(np.repeat(np.arange(len(groups)), capped))[: batches * per_batch]
    left = np.bincount(deck, minlength=len(groups))
    rows = np.empty((batches, per_batch), np.int64)
    for batch in range(batches):
        with np.errstate(divide="ignore"):
            keys = np.log(left) + rng.gumbel(size=len(left))
        keys[left == batches - batch] = np.inf
        rows[batch] = rng.permutation(np.argpartition(-keys, per_batch - 1)[:per_batch])
        left[rows[batch]] -= 1
    return rows


def _occurrence(values: np.ndarray) -> np.ndarray:
    """For each value, how many equal ones stand before it: [5, 7, 5, 5] -> [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(values)])
    result = np.empty(len(values), np.int64)
    result[order] = np.arange(len(values)) - np.repeat(starts, lengths)
    return result
