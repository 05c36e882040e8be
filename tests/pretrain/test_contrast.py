"""The contrast against the published program's number and slow loops; the queue's order."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reference import normal
from slow_contrast import slow_info_nce
from transreid_ssl.data.track_columns import Tracks
from transreid_ssl.errors import UserError
from transreid_ssl.pretrain import KeyQueue, info_nce
from transreid_ssl.pretrain.moments import Moments

REFERENCE = np.load(Path(__file__).parent / "reference_moco.npz")


def units(tag, shape, dim=1):
    return F.normalize(torch.tensor(normal(tag, shape)), dim=dim)


def test_the_published_program_gives_the_same_loss():
    queries, keys = (units(tag, (8, 128)) for tag in ("moco_q", "moco_k"))
    loss, _ = info_nce(queries, keys, 0.1, queue=units("moco_queue", (128, 20), dim=0))
    np.testing.assert_allclose(loss, REFERENCE["moco/loss_T0.1"], rtol=1e-5)


def test_against_a_queue_the_loss_equals_a_double_loop():
    queries, queue = units("q", (5, 4)), units("queue", (4, 7), dim=0)
    keys = F.normalize(queries + units("k", (5, 4)), dim=1)
    expected = [slow_info_nce(q, k, queue.T, 0.3) for q, k in zip(queries, keys)]
    loss, accuracy = info_nce(queries, keys, 0.3, queue=queue)
    torch.testing.assert_close(loss, torch.tensor(expected).mean())
    best = [max(float(q @ n) for n in queue.T) for q in queries]
    first = [float(q @ k) > b for q, k, b in zip(queries, keys, best)]
    assert accuracy.item() == pytest.approx(sum(first) / 5)
    assert 0 < sum(first) < 5


@pytest.mark.parametrize("offset", [0, 3])
def test_within_a_batch_the_loss_equals_a_double_loop(offset):
    queries, keys = units("q", (4, 6)), units("k", (8, 6))
    expected = []
    for i, query in enumerate(queries):
        others = [key for j, key in enumerate(keys) if j != offset + i]
        expected.append(slow_info_nce(query, keys[offset + i], others, 0.2))
    loss, _ = info_nce(queries, keys, 0.2, offset=offset)
    torch.testing.assert_close(loss, torch.tensor(expected).mean())


def test_keys_of_the_querys_own_track_are_no_negatives():
    queries, queue = units("q", (4, 6)), units("queue", (6, 9), dim=0)
    keys, tracks = units("k", (8, 6)), torch.tensor([0, 1, 1, 4, 0, 7, 0, 1])
    of_queue = torch.tensor([1, -1, 4, 4, 0, 9, -1, 1, 1])
    in_queue, in_batch = [], []
    for i, query in enumerate(queries):
        others = [key for key, track in zip(queue.T, of_queue) if track != tracks[i]]
        in_queue.append(slow_info_nce(query, keys[i], others, 0.2))
        own = 3 + i
        others = [keys[j] for j in range(8) if j != own and tracks[j] != tracks[own]]
        in_batch.append(slow_info_nce(query, keys[own], others, 0.2))
    loss, _ = info_nce(
        queries, keys[:4], 0.2, queue=queue, tracks=tracks[:4], key_tracks=of_queue
    )  # fmt: skip
    torch.testing.assert_close(loss, torch.tensor(in_queue).mean())
    loss, _ = info_nce(queries, keys, 0.2, offset=3, tracks=tracks[3:7], key_tracks=tracks)
    torch.testing.assert_close(loss, torch.tensor(in_batch).mean())
    leaf = queries.clone().requires_grad_()
    loss, accuracy = info_nce(leaf, keys[:4], 0.2, tracks=tracks[:4] * 0, key_tracks=tracks[:4] * 0)
    loss.backward()
    assert (loss, accuracy, leaf.grad.abs().max()) == (0, 1, 0), "no negative is left"


def test_a_key_of_the_same_moment_counts_as_often_as_its_weight_says():
    """As if it were there so often: checked by repeating it."""
    queries, keys, queue = units("q", (2, 6)), units("k", (2, 6)), units("queue", (6, 5), dim=0)
    moments = Moments(of(videos=[0, 0, 0, 1], firsts=[0, 5, 9, 6], lasts=[6, 8, 9, 7]), 3.0)
    tracks, of_queue = torch.tensor([0, 1]), torch.tensor([1, 2, -1, 3, 0])
    expected = []
    for i, beside in enumerate((1, 0)):  # of track 0 it is track 1, of track 1 track 0
        others = [
            key
            for key, track in zip(queue.T, of_queue)
            for _ in range(3 if track == beside else 1)
            if track != tracks[i]
        ]
        expected.append(slow_info_nce(queries[i], keys[i], others, 0.2))
    loss, _ = info_nce(
        queries, keys, 0.2, queue=queue, tracks=tracks, key_tracks=of_queue, moments=moments
    )
    torch.testing.assert_close(loss, torch.tensor(expected).mean())


def of(videos, firsts, lasts):
    """Tracks of two images each."""
    two = (np.repeat(np.array(values), 2) for values in (videos, range(len(videos))))
    videos, tracks = two
    frames = np.stack([firsts, lasts], 1).ravel()
    return Tracks(videos, videos, tracks, frames)


def test_which_tracks_were_seen_with_others_equals_a_double_loop():
    random, met = np.random.default_rng(0), 0
    for number in (2, 3, 12, 30):
        videos, firsts = random.integers(0, 3, number), random.integers(0, 40, number)
        lasts = firsts + random.integers(0, 12, number)
        slow = np.zeros((number, number), bool)
        for i, j in itertools.permutations(range(number), 2):
            meet = firsts[i] <= lasts[j] and firsts[j] <= lasts[i]
            slow[i, j] = videos[i] == videos[j] and meet
        if not slow.any():
            continue
        met += 1
        moments, each = Moments(of(videos, firsts, lasts), 2.0), torch.arange(number)
        assert ((moments(each, each) > 0).numpy() == slow).all()
        assert moments.describe().startswith(f"{slow.any(1).sum()} of {number} tracks")
    assert met > 1


def test_a_pool_whose_people_are_never_together_has_no_certain_negatives():
    with pytest.raises(UserError, match="no two tracks of one video of the pool overlap"):
        Moments(of(videos=[0, 0, 1], firsts=[0, 5, 0], lasts=[4, 8, 9]), 2.0)


def test_accuracy_is_one_for_equal_and_chance_for_opposite_keys():
    queries = torch.eye(6)
    assert info_nce(queries, queries, 0.1)[1] == 1
    assert info_nce(queries, -queries, 0.1)[1] == 0
    assert info_nce(queries, queries, 0.1, queue=-queries)[1] == 1


def test_the_loss_is_float32_under_autocast():
    queries, keys = units("moco_q", (8, 128)), units("moco_k", (8, 128))
    plain, _ = info_nce(queries, keys, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(info_nce(queries, keys, 0.1)[0], plain, rtol=0, atol=0)


def numbered(first, last):
    """Keys that tell which they are: (last - first, 1)."""
    return torch.arange(float(first), float(last))[:, None]


def slow_ring(size, batches):
    ring, pointer = [None] * size, 0
    for batch in batches:
        for key in batch.flatten().tolist():
            ring[pointer] = key
            pointer = (pointer + 1) % size
    return ring, pointer


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (4, 4, 1), (7, 2), (9, 9), (16, 3), (7, 7)])
def test_the_queue_is_a_ring_whatever_the_sizes_of_batches(sizes):
    queue, batches, start = KeyQueue(1, 7), [], 0
    for size in sizes:
        batches.append(numbered(start, start + size))
        queue.remember(batches[-1])
        queue.enqueue()
        start += size
    ring, pointer = slow_ring(7, batches)
    assert queue.keys[0].tolist() == ring
    assert queue.pointer.tolist() == [pointer]


def test_keys_wait_for_the_end_of_the_step_and_enter_in_order():
    queue = KeyQueue(1, 5)
    before = queue.keys.clone()
    queue.remember(numbered(0, 2))
    queue.remember(numbered(2, 4))
    assert torch.equal(queue.keys, before)
    queue.enqueue()
    assert queue.keys[0, :4].tolist() == [0, 1, 2, 3]
    assert queue.keys[0, 4] == before[0, 4]
    queue.enqueue()  # nothing waits any more
    assert queue.pointer == 4


def test_the_queue_is_state_and_begins_with_random_unit_keys():
    torch.manual_seed(0)
    queue, other = KeyQueue(8, 6), KeyQueue(8, 6)
    torch.testing.assert_close(queue.keys.norm(dim=0), torch.ones(6))
    queue.remember(torch.eye(8)[:4])
    queue.enqueue()
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.keys, queue.keys)
    assert other.pointer == 4
    assert not any(p.requires_grad for p in queue.parameters())


def test_the_queue_knows_the_track_of_each_key():
    queue = KeyQueue(1, 5)
    for keys, tracks in ((numbered(0, 3), [0, 10, 20]), (numbered(3, 7), [30, 40, 50, 60])):
        assert queue.tracks[queue.pointer] == -1
        queue.remember(keys[:2], torch.tensor(tracks[:2]))
        queue.forget()
        for i in range(len(tracks)):
            queue.remember(keys[i : i + 1], torch.tensor(tracks[i : i + 1]))
        queue.enqueue()
    assert queue.tracks.tolist() == (10 * queue.keys[0]).tolist() == [50, 60, 20, 30, 40]


def test_keys_of_a_step_that_is_not_made_do_not_enter():
    queue = KeyQueue(4, 8)
    before = queue.keys.clone()
    queue.remember(torch.ones(2, 4))
    queue.forget()
    queue.enqueue()
    assert torch.equal(queue.keys, before)
