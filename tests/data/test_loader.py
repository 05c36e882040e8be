"""Loading: layout of batches, independence of workers and of where a run begins, broken images."""

import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch

import killed_loader
import launch
from transreid_ssl.data.images import decode, resize
from transreid_ssl.data.loader import (
    LabelledDataset,
    ViewsDataset,
    decoded,
    image_loader,
    stack,
    training_loader,
)
from transreid_ssl.data.located import LocatedViews
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.readers import open_reid
from transreid_ssl.data.samplers import EpochSampler, IdentitySampler
from transreid_ssl.data.settings import RandomErasingConfig, ReIDAugmentConfig
from transreid_ssl.data.views import ReIDAugment
from transreid_ssl.errors import UserError


def two_groups(image, rng, another=None):
    """Two large and three small views, each of one random grey."""
    return [
        [np.full((8, 4, 3), rng.integers(256), np.uint8) for _ in range(2)],
        [np.full((4, 2, 3), rng.integers(256), np.uint8) for _ in range(3)],
    ]


def located_pair(image, rng, another=None):
    """Two views and their geometry, told by the image's own first pixel."""
    number = int(image[0, 0, 0])
    boxes = np.array([[0, 0, 1, 1], [number, 0, 1, 1]], np.float32) / 256
    return LocatedViews([[image[:4, :4]] * 2], image[:8, :4], boxes, np.array([True, False]))


def first_pixel(image, rng, another=None):
    return [[image[:1, :1]]]


def noisy(image, rng, another):
    return np.clip(image[:4, :4] + rng.integers(0, 9, (4, 4, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def root(tmp_path, write_images):
    return write_images(tmp_path / "images", [f"{i % 3}_c{i % 2}_{i:02d}.jpg" for i in range(12)])


def test_view_batches_are_view_major(root):
    dataset = ViewsDataset(open_pool(root), two_groups, seed=5)
    loader = training_loader(dataset, EpochSampler(12, 4, 5, num_steps=2))
    batches = list(loader)
    assert len(loader) == len(batches) == 2
    large, small = batches[0]["views"]
    assert large.shape == (8, 3, 8, 4)
    assert small.shape == (12, 3, 4, 2)
    assert large.dtype == small.dtype == torch.uint8
    assert large.is_contiguous()
    for b, index in enumerate(batches[0]["index"].tolist()):
        views = two_groups(None, np.random.default_rng([5, 0, index]))
        for group, got in zip(views, (large, small)):
            for v, view in enumerate(group):
                assert (got[v * 4 + b] == int(view[0, 0, 0])).all()


def test_geometry_is_collated_view_by_view_beside_the_plain_images(root):
    pool = open_pool(root)
    dataset = ViewsDataset(pool, located_pair, seed=0)
    loader = training_loader(dataset, EpochSampler(12, 4, 0, num_steps=1), num_workers=1)
    (batch,) = loader
    assert batch["views"][0].shape == (8, 3, 4, 4)
    assert batch["boxes"].dtype == torch.float32
    assert batch["flips"].tolist() == [[True] * 4, [False] * 4]
    for row, index in enumerate(batch["index"].tolist()):
        image = decode(pool.read(index), "")
        assert batch["boxes"][1, row, 0] * 256 == image[0, 0, 0]
        np.testing.assert_array_equal(batch["original"][row].permute(1, 2, 0), image[:8, :4])
    (plain,) = training_loader(
        ViewsDataset(pool, two_groups, 0), EpochSampler(12, 4, 0, num_steps=1)
    )
    assert set(plain) == {"views", "index", "corrupt"}


def test_workers_and_beginning_change_nothing(root):
    dataset = ViewsDataset(open_pool(root), two_groups, seed=0)
    sampler = partial(EpochSampler, 12, 4, 0, num_steps=6)
    whole = list(training_loader(dataset, sampler()))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    resumed = list(training_loader(dataset, sampler(first_step=4), num_workers=2))
    assert torch.equal(torch.get_rng_state(), state), "a loader leaves the run's generator alone"
    assert len(resumed) == 2
    for one, other in zip(whole[4:], resumed):
        assert torch.equal(one["index"], other["index"])
        assert all(torch.equal(a, b) for a, b in zip(one["views"], other["views"]))


def test_stack_is_transposition():
    images = [np.random.default_rng(i).integers(0, 256, (6, 4, 3)).astype(np.uint8) for i in "12"
              for i in [int(i)]]  # fmt: skip
    assert torch.equal(stack(images), torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    flipped = [image[:, ::-1] for image in images]
    assert torch.equal(stack(flipped), stack(images).flip(3)), "views of arrays too"
    with pytest.raises(ValueError, match="cannot stack"):
        stack([images[0], images[1][:3]])
    with pytest.raises(ValueError, match="cannot stack"):
        stack([images[0].astype(np.float32)])


def test_broken_images_are_replaced_and_named(root, encoded):
    pool = open_pool(root)
    (root / pool.names[3]).write_bytes(encoded(3)[:-40])
    dataset = ViewsDataset(pool, first_pixel, seed=1)
    first, again = dataset[(0, 3)], dataset[(7, 3)]
    assert first["corrupt"] == [pool.names[3]]
    np.testing.assert_array_equal(first["views"][0][0], again["views"][0][0])
    sound = {decode(pool.read(i), "")[0, 0].tobytes() for i in range(12) if i != 3}
    assert first["views"][0][0].tobytes() in sound
    (batch,) = training_loader(dataset, EpochSampler(12, 12, 0, num_steps=1))
    assert batch["corrupt"] == [pool.names[3]]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_lost_disk_is_one_line(root, workers):
    pool = open_pool(root)
    for name in pool.names:
        (root / name).unlink()
    loader = training_loader(
        ViewsDataset(pool, first_pixel, 0), EpochSampler(12, 4, 0, num_steps=1), workers
    )
    with pytest.raises(UserError) as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert "no replacement could be read after 20 attempts" in str(caught.value)


def test_labelled_batches(root):
    images = open_reid("folder", root).train
    dataset = LabelledDataset(images, noisy, seed=2)
    assert (dataset.num_identities, dataset.num_cameras) == (3, 2)
    sampler = IdentitySampler(
        images.identities, 2, identities_per_batch=2, images_per_identity=2, num_steps=3
    )
    for batch, items in zip(training_loader(dataset, sampler), sampler):
        indices = [index for _, index, _ in items]
        assert batch["index"].tolist() == indices
        assert batch["identities"].tolist() == images.identities[indices].tolist()
        assert batch["cameras"].tolist() == images.cameras[indices].tolist()
        assert batch["images"].shape == (4, 3, 4, 4)


def test_copies_of_an_image_are_augmented_differently(root):
    dataset = LabelledDataset(open_reid("folder", root).train, noisy, seed=0)
    same, copy = dataset[(0, 4, 0)]["image"], dataset[(0, 4, 1)]["image"]
    np.testing.assert_array_equal(same, dataset[(0, 4, 0)]["image"])
    assert (same != copy).any()


def test_labels_count_from_zero_and_distractors_have_none(root):
    images = open_reid("folder", root).train
    sparse = np.array([40, 7, -1])[images.identities]
    dataset = LabelledDataset(type(images)(images.pool, sparse, None), noisy, seed=0)
    assert dataset.num_identities == 2
    assert set(zip(sparse.tolist(), dataset.labels.tolist())) == {(40, 1), (7, 0), (-1, -1)}
    assert dataset[(0, 0)]["camera"] == -1


def test_a_broken_labelled_image_keeps_its_identity(root):
    images = open_reid("folder", root).train
    (root / images.names[0]).write_bytes(b"")
    item = LabelledDataset(images, noisy, seed=0)[(0, 0)]
    assert item["corrupt"] == [images.names[0]]
    assert item["identity"] == 0
    for name in images.names[:4]:
        (root / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"empty.*no replacement could be read after 4 attempts"):
        LabelledDataset(images, noisy, seed=0)[(0, 0)]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_order(root, workers):
    pool = open_pool(root)
    batches = list(image_loader(pool, (64, 32), 5, workers))
    assert [len(batch["index"]) for batch in batches] == [5, 5, 2]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(12))
    images = torch.cat([batch["images"] for batch in batches])
    assert images.shape == (12, 3, 64, 32)
    for index, image in enumerate(images):
        expected = decode(pool.read(index), "")
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_chosen_images_resized(root, interpolation):
    indices, pool = np.array([7, 2, 9]), open_pool(root)
    (batch,) = image_loader(pool, (16, 8), 10, indices=indices, interpolation=interpolation)
    assert batch["index"].tolist() == [7, 2, 9]
    for image, index in zip(batch["images"], indices, strict=True):
        expected = resize(decode(pool.read(index), ""), (16, 8), interpolation)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_decoded_images_keep_their_sizes(root, encoded):
    pool = open_pool(root)
    expected = [decode(pool.read(i), "") for i in range(12)]
    for found, image in zip(decoded(pool), expected, strict=True):
        np.testing.assert_array_equal(found, image)
    for found, index in zip(decoded(pool, np.array([5, 2])), (5, 2), strict=True):
        np.testing.assert_array_equal(found, expected[index])
    (root / pool.names[3]).write_bytes(encoded(0)[:50])
    with pytest.raises(UserError, match="remove or replace this image"):
        list(decoded(pool))


def test_a_broken_image_stops_plain_loading_unless_told(root):
    pool = open_pool(root)
    (root / pool.names[2]).write_bytes(b"")
    with pytest.raises(UserError, match=r"0_c1_03\.jpg: empty .*; remove or replace"):
        list(image_loader(pool, (16, 8), 4, num_workers=1))
    batches = list(image_loader(pool, (16, 8), 1, skip_corrupt=True))
    assert [batch["index"].tolist() for batch in batches[1:4]] == [[1], [], [3]]
    assert batches[2]["images"].shape == (0, 3, 16, 8)
    assert batches[2]["corrupt"] == [pool.names[2]]


INTERRUPTED = """
from transreid_ssl.data import EpochSampler, ViewsDataset, open_pool, training_loader

def views(image, rng, another=None):
    return [[image]]

dataset = ViewsDataset(open_pool("demo:identities=4,images=4"), views, 0)
for batch in training_loader(dataset, EpochSampler(16, 4, 0, num_steps=99), num_workers=1):
    raise RuntimeError("in the middle of a run")
"""


def test_an_exception_in_the_loop_ends_the_process():
    """The uncaught exception keeps the iterator alive while Python waits for its workers."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True,
        timeout=launch.PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().endswith("RuntimeError: in the middle of a run")


def test_workers_do_not_outlive_a_kill(tmp_path):
    process = launch.start(killed_loader.die_while_loading, tmp_path)
    process.join(launch.PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    (worker,) = tmp_path.iterdir()
    deadline = time.monotonic() + launch.PATIENCE
    while launch.runs(int(worker.name)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_background_of_a_labelled_image_is_another_image():
    images = open_reid("demo:identities=4,images=4,height=64,width=32").train
    plain, mixed, again = (
        LabelledDataset(
            images,
            ReIDAugment(
                ReIDAugmentConfig(
                    size=(64, 32), padding=0, flip=0, background=background,
                    erasing=RandomErasingConfig(probability=0),
                )
            ),
            seed=1,
        )[(0, 3)]["image"].astype(int)
        for background in (0.0, 1.0, 1.0)
    )  # fmt: skip
    assert np.array_equal(mixed, again)
    change = np.abs(plain - mixed).mean(axis=2)
    assert change[20:44, 12:20].mean() < 2 < 8 < change[:, [0, 1, -2, -1]].mean()
