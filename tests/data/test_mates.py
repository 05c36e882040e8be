"""Views of two frames of a track: which frames, in which views, and whatever reads them."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from transreid_ssl.data import (
    EpochSampler,
    Mates,
    MultiCrop,
    MultiCropConfig,
    ViewsDataset,
    open_pool,
    training_loader,
)
from transreid_ssl.data.images import decode
from transreid_ssl.data.track_columns import Tracks, make_table
from transreid_ssl.errors import UserError

PLAIN = MultiCropConfig(
    global_size=(16, 8), local_size=(8, 4), num_local=3, flip=0, jitter=0, grayscale=0,
    global_blur=(0,), local_blur=0, global_solarize=(0,),
)  # fmt: skip


def tracks_of(tracks, frames):
    numbers = np.array(tracks)
    return Tracks(numbers * 0, numbers * 0, numbers, np.array(frames))


def slow_far(tracks, frames, index):
    """The other images of the track, without those nearer than the (lower) middle one."""
    others = [i for i in range(len(tracks)) if tracks[i] == tracks[index] and i != index]
    distances = sorted(abs(frames[i] - frames[index]) for i in others)
    middle = distances[(len(others) - 1) // 2] if others else 0
    return {i for i in others if abs(frames[i] - frames[index]) >= middle} or {index}


def test_mates_are_the_farther_half_of_the_track_each_as_likely():
    rng = np.random.default_rng(0)
    tracks, frames = rng.integers(12, size=60), rng.integers(40, size=60)
    tracks[tracks == 3] = 4
    tracks[[7, 8]] = 3, 12  # two of a track, at one moment, and one alone
    tracks[9], frames[[7, 9]] = 3, 5
    mates = Mates(tracks_of(tracks, frames))
    for index in range(60):
        drawn = {mates.draw(index, rng) for _ in range(200)}
        assert drawn == slow_far(tracks, frames, index)
    assert {mates.draw(8, rng)} == {8}
    assert {mates.draw(7, rng)} == {9}
    # Five frames, the last after a long gap: it comes as often as the other far one.
    gap = Mates(tracks_of([0] * 5, [0, 1, 2, 3, 5_000]))
    counts = np.bincount([gap.draw(0, rng) for _ in range(3_000)])
    assert counts[:2].tolist() == [0, 0]
    np.testing.assert_allclose(counts[2:] / 3_000, 1 / 3, atol=0.04)
    paired = sum((tracks == track).sum() > 1 for track in tracks)
    assert mates.describe().startswith(f"{paired} of 60 images have a mate")


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_the_second_and_every_other_view_after_it_is_of_the_mate(background):
    image, mate = np.full((60, 30, 3), 50, np.uint8), np.full((33, 47, 3), 150, np.uint8)
    views = MultiCrop(replace(PLAIN, num_global=3, background=background))
    white = np.full((9, 9, 3), 255, np.uint8)
    made = views(image, np.random.default_rng(0), lambda: white, mate=mate)
    assert [len(group) for group in made] == [3, 3]
    middles = [int(view[len(view) // 2, view.shape[1] // 2, 0]) for part in made for view in part]
    np.testing.assert_allclose(middles, [50, 150] * 3, atol=20 * background)
    assert all(view.max() > 200 * background for view in made[0]), "each before a background"
    assert all(view.max() <= 150 for view in made[1])
    with pytest.raises(ValueError, match="uint8"):
        views(image, np.random.default_rng(0), mate=mate / 255)


def test_located_views_are_of_one_image():
    with pytest.raises(UserError, match=r"parts of one image: give --views\.mates image"):
        MultiCropConfig(mates="track", original=True)


def first_pixels(image, rng, another=None, mate=None):
    noise = rng.integers(5, size=(1, 1, 3), dtype=np.uint8)
    return [[image[:1, :1] + noise, mate[:1, :1] + noise]]


@pytest.fixture
def pool(tmp_path, write_images):
    found = open_pool(write_images(tmp_path / "images", [f"{i:02d}.jpg" for i in range(12)]))
    names = [str(i // 5) for i in range(12)]  # tracks of five, five and two images
    found.annotations = make_table(camera=names, video=names, track=names, frame=range(12))
    return found


def test_batches_tell_the_tracks_whatever_the_workers_and_the_beginning(pool):
    dataset = ViewsDataset(pool, first_pixels, 3, Mates(pool.tracks))
    sampler = partial(EpochSampler, 12, 4, 3, num_steps=6)
    whole = list(training_loader(dataset, sampler()))
    resumed = list(training_loader(dataset, sampler(first_step=2), num_workers=2))
    for one, other in zip(whole[2:], resumed, strict=True):
        assert torch.equal(one["views"][0], other["views"][0])
        assert one["tracks"].tolist() == other["tracks"].tolist() == (one["index"] // 5).tolist()
    views = [tuple(map(bytes, dataset[(epoch, 0)]["views"][0])) for epoch in range(8)]
    assert len(set(views)) > 2, "another mate in another epoch"


def test_a_broken_mate_is_replaced_by_the_image_and_named(pool):
    dataset = ViewsDataset(pool, first_pixels, 0, Mates(pool.tracks))
    broken = pool.names[11]
    Path(pool.root, broken).write_bytes(b"")
    item = dataset[(0, 10)]
    assert (item["corrupt"], item["track"]) == ([broken], 2)
    image, mate = item["views"][0]
    np.testing.assert_array_equal(image, mate)
    # An image that is broken itself: the views are of the track of its replacement.
    image, mate = dataset[(0, 11)]["views"][0]
    track = dataset[(0, 11)]["track"]
    pixels = [decode(pool.read(i), "")[0, 0].astype(int) for i in range(11)]
    near = [{i for i in range(11) if (view[0, 0] - pixels[i] >= 0).all()
             and (view[0, 0] - pixels[i] < 5).all()} for view in (image, mate)]  # fmt: skip
    assert all(any(i // 5 == track for i in found) for found in near)
