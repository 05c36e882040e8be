"""From pool to uint8 batches: data sets, collation and the loaders that run them.

Every random choice for an image comes from (seed, epoch, index), never from a worker's own state,
so the number of workers and the place where a run was resumed change nothing.
"""

import atexit
import multiprocessing
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from transreid_ssl.data.collate import collate_labelled, collate_views, stack
from transreid_ssl.data.images import REPLACE, CorruptImage, decode, resize
from transreid_ssl.data.located import LocatedViews
from transreid_ssl.data.mates import Mates
from transreid_ssl.data.pool import Pool
from transreid_ssl.data.reid import LabelledImages
from transreid_ssl.data.samplers import StepSampler
from transreid_ssl.data.settings import Interpolation
from transreid_ssl.errors import UserError
from transreid_ssl.machine import keep_freed_memory, num_cores
from transreid_ssl.words import counted

# So many broken images one after the other are no accident: a disk is gone, or a path is wrong.
_PATIENCE = 20


class Views(Protocol):
    """Makes views of an image: a list of groups, each a list of equally large uint8 arrays.

    ``LocatedViews`` have the crops' geometry and the plain image beside the groups.
    """

    def __call__(
        self,
        image: np.ndarray,
        rng: np.random.Generator,
        another: Callable[[], np.ndarray] | None = None,
        mate: np.ndarray | None = None,
    ) -> list[list[np.ndarray]] | LocatedViews:
        """``another`` gives a random other image of the pool, for views made of two. ``mate`` is an
        image of the same track, given where the data set has mates."""
        ...


class ViewsDataset(Dataset[Any]):
    """Views of unlabelled images for self-supervised training, addressed by (epoch, index).

    An item is ``{"views", "index", "corrupt"}``: views as ``Views`` made them, the index asked
    for, and the names of broken images met on the way. A broken image is replaced by another one,
    drawn from (seed, index), so a replayed step meets the same replacement. The fields of
    ``LocatedViews`` stand in the item by their names.

    With ``mates`` the views are of two frames of a track, and "track" is its number. A mate that is
    broken is replaced by the image itself.
    """

    pool: Pool | LabelledImages
    views: Views
    seed: int
    mates: Mates | None

    def __init__(
        self, pool: Pool | LabelledImages, views: Views, seed: int, mates: Mates | None = None
    ) -> None:
        self.pool, self.views, self.seed, self.mates = pool, views, seed, mates

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        index = item[1]
        image, used, corrupt = _first_readable(self.pool, index, self._substitutes(index))
        rng = np.random.default_rng([self.seed, *item])
        make_views, known = self.views, {}
        if self.mates is not None:
            mate, _, broken = _first_readable(self.pool, self.mates.draw(used, rng), iter([used]))
            corrupt.extend(broken)
            make_views = partial(self.views, mate=mate)
            known["track"] = int(self.mates.tracks[used])
        views = make_views(image, rng, _another(self.pool, rng, corrupt))
        located = views._asdict() if isinstance(views, LocatedViews) else {"views": views}
        return {**located, **known, "index": index, "corrupt": corrupt}

    def _substitutes(self, index: int) -> Iterator[int]:
        """Other images; a generator, so that only a broken image costs the drawing of them."""
        rng = np.random.default_rng([self.seed, index])
        for _ in range(_PATIENCE):
            yield int(rng.integers(len(self.pool)))


class LabelledDataset(Dataset[Any]):
    """Augmented images with labels for fine-tuning, addressed by (epoch, index[, copy]).

    Labels are 0 … ``num_identities`` - 1 in the order of the identities, ``camera`` likewise (-1
    where none is known). A broken image is replaced by another one of the same identity.
    ``augment`` is called with the image, a generator and a function that gives another image.
    """

    images: LabelledImages
    augment: Callable[..., np.ndarray]
    seed: int
    num_identities: int
    labels: np.ndarray
    cameras: np.ndarray
    num_cameras: int

    def __init__(
        self, images: LabelledImages, augment: Callable[..., np.ndarray], seed: int
    ) -> None:
        self.images, self.augment, self.seed = images, augment, seed
        known = np.unique(images.identities[images.identities >= 0])
        self.num_identities = len(known)
        self.labels = np.where(images.identities < 0, -1, np.searchsorted(known, images.identities))
        self.cameras = np.full(len(images), -1)
        self.num_cameras = images.num_cameras
        if images.cameras is not None:
            self.cameras = np.unique(images.cameras, return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, ...]) -> dict[str, Any]:
        index = item[1]
        image, used, corrupt = _first_readable(self.images, index, self._same_identity(index))
        rng = np.random.default_rng([self.seed, *item])
        return {
            "image": self.augment(image, rng, _another(self.images, rng, corrupt)),
            "identity": int(self.labels[used]),
            "camera": int(self.cameras[used]),
            "index": index,
            "corrupt": corrupt,
        }

    def _same_identity(self, index: int) -> Iterator[int]:
        """The person's other images; looked for, over all labels, only when an image is broken."""
        for other in np.flatnonzero(self.labels == self.labels[index]).tolist():
            if other != index:
                yield other


def _another(
    images: Pool | LabelledImages, rng: np.random.Generator, corrupt: list[str]
) -> Callable[[], np.ndarray]:
    """Gives a random image each time it is called; broken ones are added to ``corrupt``."""

    def draw() -> np.ndarray:
        picks = (int(rng.integers(len(images))) for _ in range(_PATIENCE))
        other, _, broken = _first_readable(images, next(picks), picks)
        corrupt.extend(broken)
        return other

    return draw


def _first_readable(
    images: Pool | LabelledImages, index: int, others: Iterator[int]
) -> tuple[np.ndarray, int, list[str]]:
    """The image at ``index``, or at the first readable of ``others``; its index; broken names."""
    corrupt: list[str] = []
    while len(corrupt) < _PATIENCE:
        try:
            return decode(images.read(index), images.names[index]), index, corrupt
        except CorruptImage as error:
            corrupt.append(error.name)
            reason = error.reason
        index = next(others, -1)
        if index < 0:
            break
    raise UserError(
        f"{corrupt[0]}: {reason}, and no replacement could be read after "
        f"{counted(len(corrupt), 'attempt')}; "
        "check the images with: python -m transreid_ssl.data verify PATH"
    )


def decoded(
    images: Pool | LabelledImages, indices: Sequence[int] | np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Images in order, all or those at ``indices``: uint8 (H, W, 3) RGB, each of its own size.

    Raises:
        UserError: one of them cannot be read.
    """
    for index in range(len(images)) if indices is None else indices:
        try:
            yield decode(images.read(int(index)), images.names[int(index)])
        except CorruptImage as error:
            raise UserError(f"{error}; {REPLACE}") from error


class _PlainImages(Dataset[Any]):
    """Resized images in order; None in the place of a broken one if those are to be skipped."""

    def __init__(
        self,
        images: Any,
        size: tuple[int, int],
        skip_corrupt: bool,
        cameras: np.ndarray | None,
        interpolation: Interpolation,
    ) -> None:
        self.images, self.size, self.skip_corrupt = images, size, skip_corrupt
        self.interpolation = interpolation
        self.cameras = None if cameras is None else torch.from_numpy(cameras)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        try:
            image = decode(self.images.read(index), self.images.names[index])
        except CorruptImage as error:
            if not self.skip_corrupt:
                raise UserError(f"{error}; {REPLACE}") from error
            return {"image": None, "index": index, "corrupt": [error.name]}
        image = resize(image, self.size, self.interpolation)
        return {"image": image, "index": index, "corrupt": []}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch of the readable images; (0, 3, height, width) if there is none."""
        good = [item for item in items if item["image"] is not None]
        batch = {
            "images": stack([item["image"] for item in good], (*self.size, 3)),
            "index": torch.tensor([item["index"] for item in good], dtype=torch.int64),
            "corrupt": [name for item in items for name in item["corrupt"]],
        }
        return batch if self.cameras is None else batch | {"cameras": self.cameras[batch["index"]]}


_running: weakref.WeakSet = weakref.WeakSet()


class _Loader(DataLoader[Any]):
    """A loader that always ends its workers, and whose errors for users stay one line.

    Left to themselves, workers that ignore signals outlive an exception in the loop: its traceback
    keeps the iterator, and Python waits for its processes before it lets go of tracebacks.
    """

    def __iter__(self) -> Iterator[Any]:
        iterator = super().__iter__()
        _running.add(iterator)
        complaint = None
        try:
            yield from iterator
        except UserError as error:
            # From a worker it comes wrapped in the text of the worker's traceback.
            complaint = str(error).strip().splitlines()[-1].rpartition("UserError: ")[2]
        finally:
            _stop_workers(iterator)
        if complaint:
            raise UserError(complaint)


def _stop_workers(iterator: Any) -> None:
    if hasattr(iterator, "_shutdown_workers"):  # an iterator without workers has none
        iterator._shutdown_workers()
        for worker in iterator._workers:
            if worker.is_alive():  # it ignores the polite signal, and would be waited for
                worker.kill()


@atexit.register
def _stop_all_workers() -> None:
    for iterator in list(_running):
        _stop_workers(iterator)


def open_loader(dataset: Dataset[Any], num_workers: int, **options: Any) -> DataLoader[Any]:
    """A loader over any data set, with the manners that all loaders here share.

    It has no more workers than there are cores, whatever is asked for. They are forks, where the
    system has them, leave signals to the main process, take one thread each and always end; it
    takes nothing from the global random state, and a ``UserError`` in a worker arrives as it was
    said.

    Args:
        options: further arguments of ``torch.utils.data.DataLoader``.
    """
    workers = min(num_workers, num_cores())
    # Workers of a fork server are not this process's children: they would outlive its death.
    forks = workers > 0 and "fork" in multiprocessing.get_all_start_methods()
    return _Loader(
        dataset,
        num_workers=workers,
        multiprocessing_context="fork" if forks else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else each loader would advance the run's own generator
        **options,
    )


def _start_worker(_worker: int) -> None:
    # An interrupt is for the main process, which ends its step and then its workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    keep_freed_memory(2**26)  # and not as much as the training that it is a fork of
    cv2.setNumThreads(0)  # as many workers as cores, each with a pool of threads, would thrash


def training_loader(
    dataset: ViewsDataset | LabelledDataset, sampler: StepSampler, num_workers: int = 0
) -> DataLoader[Any]:
    """One loader for a whole run: it yields the micro-batches of ``sampler`` and ends with it."""
    collate = collate_labelled if isinstance(dataset, LabelledDataset) else collate_views
    return open_loader(dataset, num_workers, batch_sampler=sampler, collate_fn=collate)


def image_loader(
    images: Pool | LabelledImages,
    size: tuple[int, int],
    batch_size: int,
    num_workers: int = 0,
    indices: Sequence[int] | np.ndarray | None = None,
    skip_corrupt: bool = False,
    cameras: np.ndarray | None = None,
    interpolation: Interpolation = "linear",
) -> DataLoader[Any]:
    """Images in order, resized to ``size`` = (height, width), all or those at ``indices``.

    Batches are ``{"images": uint8 (B, 3, height, width), "index": int64 (B,), "corrupt": names}``,
    ``index`` being positions in ``images``. A broken image is a ``UserError``, since features
    must not be missing in silence; with ``skip_corrupt`` it is left out and named in ``corrupt``.
    ``cameras`` int64 (N,), rows of a network's camera embedding, adds "cameras" to the batches.
    ``interpolation`` is that of ``images.resize``: TransReID-SSL tests on "linear" images what it
    trained with labels; what it trains on clusters it clusters and tests on "cubic" ones.
    """
    dataset = _PlainImages(images, size, skip_corrupt, cameras, interpolation)
    order = range(len(images)) if indices is None else indices
    return open_loader(
        dataset, num_workers, batch_size=batch_size, sampler=order, collate_fn=dataset.collate
    )
