"""Samplers: each image once, the same global batch on any number of processes, any first step."""

import pickle
from functools import partial
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transreid_ssl.data.samplers import ClusterSampler, EpochSampler, IdentitySampler
from transreid_ssl.errors import UserError

fast = settings(max_examples=40, deadline=None)


def joined(build, world_size, accumulation):
    """The global batches rebuilt from what every process was given."""
    ranks = [
        list(build(rank=rank, world_size=world_size, accumulation=accumulation))
        for rank in range(world_size)
    ]
    rounds = [list(chain(*parts)) for parts in zip(*ranks)]
    return [list(chain(*rounds[i : i + accumulation])) for i in range(0, len(rounds), accumulation)]


@fast
@given(num_images=st.integers(8, 60), batch=st.sampled_from([4, 8]), seed=st.integers(0, 99))
def test_every_image_at_most_once_an_epoch(num_images, batch, seed):
    per_epoch = num_images // batch
    batches = list(EpochSampler(num_images, batch, seed, num_steps=3 * per_epoch))
    orders = []
    for epoch in range(3):
        items = list(chain(*batches[epoch * per_epoch : (epoch + 1) * per_epoch]))
        indices = [index for _, index in items]
        assert {e for e, _ in items} == {epoch}
        assert len(set(indices)) == len(indices) == per_epoch * batch
        assert set(indices) <= set(range(num_images))
        orders.append(indices)
    if num_images % batch == 0:
        assert all(sorted(order) == list(range(num_images)) for order in orders)


def test_epochs_and_seeds_differ():
    order = [b for batch in EpochSampler(50, 10, 0, num_steps=10) for _, b in batch]
    other = [b for batch in EpochSampler(50, 10, 1, num_steps=5) for _, b in batch]
    assert order[:50] != order[50:]
    assert order[:50] != other


@fast
@given(
    world=st.sampled_from([1, 2, 4]), accumulation=st.sampled_from([1, 2]), seed=st.integers(0, 9)
)
def test_processes_and_accumulation_do_not_change_the_global_batch(world, accumulation, seed):
    def by_image(**share):
        return EpochSampler(37, 8, seed, num_steps=9, **share)

    def by_identity(**share):
        identities = np.arange(60) % 13
        return IdentitySampler(
            identities, seed, identities_per_batch=8, images_per_identity=2, num_steps=6, **share
        )

    for build in (by_image, by_identity):
        assert joined(build, world, accumulation) == joined(build, 1, 1)
        assert len(build(world_size=world, accumulation=accumulation)) == len(
            list(build(world_size=world, accumulation=accumulation))
        )


def test_no_image_is_lost_or_seen_twice_when_the_number_of_processes_changes():
    seen, step = [], 0
    for processes, end in ((1, 2), (2, 5), (3, 6), (6, 9), (1, 10)):  # 10 steps are two epochs
        build = partial(EpochSampler, 60, 12, 0, first_step=step, num_steps=end)
        seen += chain(*joined(build, processes, 2 if 12 % (2 * processes) == 0 else 1))
        step = end
    whole = list(chain(*EpochSampler(60, 12, 0, num_steps=10)))
    assert seen == whole
    assert sorted(seen) == [(epoch, image) for epoch in range(2) for image in range(60)]


@fast
@given(first=st.integers(0, 12))
def test_beginning_at_a_step_equals_skipping_to_it(first):
    whole = list(EpochSampler(21, 4, 3, num_steps=12))
    assert list(EpochSampler(21, 4, 3, num_steps=12, first_step=first)) == whole[first:]
    identities = np.repeat(np.arange(9), 5)
    options = {"identities_per_batch": 3, "images_per_identity": 2, "num_steps": 12}
    whole = list(IdentitySampler(identities, 3, **options))
    assert list(IdentitySampler(identities, 3, first_step=first, **options)) == whole[first:]


@fast
@given(
    counts=st.lists(st.integers(1, 17), min_size=4, max_size=25),
    per_batch=st.sampled_from([2, 4]),
    per_identity=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 99),
)
def test_identity_batches_hold_p_identities_of_k_images(counts, per_batch, per_identity, seed):
    identities = np.random.default_rng(seed).permutation(
        np.repeat(np.arange(len(counts)) * 7 + 3, counts)
    )
    identities = np.r_[identities, [-1, -1]]
    sampler = IdentitySampler(
        identities,
        seed,
        identities_per_batch=per_batch,
        images_per_identity=per_identity,
        num_steps=1_000,
    )
    seen = []
    for step in range(sampler.steps_per_epoch):
        batch = sampler.global_batch(step)
        chosen = identities[[index for _, index, _ in batch]]
        rows = chosen.reshape(per_batch, per_identity)
        assert (rows == rows[:, :1]).all()
        assert len(set(rows[:, 0].tolist())) == per_batch
        assert (chosen >= 0).all()
        seen += batch
    assert len(set(seen)) == len(seen), "an image came twice with the same copy number"
    for index, copy in {(index, copy) for _, index, copy in seen}:
        many = counts[(int(identities[index]) - 3) // 7]
        assert copy == 0 or many < per_identity


def test_identity_epoch_is_as_long_as_it_can_be():
    # 4 identities of 8 images in groups of 2: 4 groups each, 2 a batch: 8 batches hold all 32.
    sampler = IdentitySampler(
        np.repeat(np.arange(4), 8), 0, identities_per_batch=2, images_per_identity=2, num_steps=8
    )
    assert sampler.steps_per_epoch == 8
    assert sorted(index for batch in sampler for _, index, _ in batch) == list(range(32))
    # One identity has 50 groups, but a batch takes it once and there are 3 others to go with it.
    lopsided = np.r_[np.zeros(100, int), [1, 1, 2, 2, 3, 3]]
    sampler = IdentitySampler(
        lopsided, 0, identities_per_batch=2, images_per_identity=2, num_steps=3
    )
    assert sampler.steps_per_epoch == 3


def test_an_epoch_may_count_images_while_passes_over_groups_go_on():
    identities = np.repeat(np.arange(4), 7)  # 28 images; 4 x 3 groups of 2 make 6 batches of 4
    options = {"identities_per_batch": 2, "images_per_identity": 2, "num_steps": 21}
    groups = IdentitySampler(identities, 0, **options)
    images = IdentitySampler(identities, 0, **options, by_images=True)
    assert (groups.steps_per_epoch, images.steps_per_epoch) == (6, 7)
    assert list(groups) == list(images)  # the same batches, however epochs are counted


def test_few_images_repeat_with_a_copy_number():
    sampler = IdentitySampler(
        np.array([0, 0, 1]), 0, identities_per_batch=2, images_per_identity=4, num_steps=1
    )
    (batch,) = sampler
    copies = {0: [], 1: [], 2: []}
    for _, index, copy in batch:
        copies[index].append(copy)
    assert copies == {0: [0, 1], 1: [0, 1], 2: [0, 1, 2, 3]}


def test_few_images_may_be_drawn_with_replacement():
    identities = np.repeat(np.arange(4), [16, 10, 10, 3])
    sampler = IdentitySampler(
        identities, 0, identities_per_batch=4, images_per_identity=16, num_steps=300, draw_few=True
    )
    different = []
    for batch in sampler:
        assert len(set(batch)) == 64, "an image came twice with the same copy number"
        rows = np.array([index for _, index, _ in batch]).reshape(4, 16)
        rows = rows[np.argsort(identities[rows[:, 0]])]
        different.append([len(set(row)) for row in rows.tolist()])
    # Of n images, n (1 - (1 - 1 / n)^16) come on average.
    assert np.mean(different, axis=0) == pytest.approx([16, 8.147, 8.147, 2.995], abs=0.25)


def test_samplers_survive_pickling_midway():
    sampler = EpochSampler(30, 5, 0, num_steps=6)
    first = sampler.global_batch(2)
    assert pickle.loads(pickle.dumps(sampler)).global_batch(2) == first


def test_complaints_name_the_setting():
    with pytest.raises(UserError, match="batch_size 10 cannot be shared by 2 processes x 2"):
        EpochSampler(100, 10, 0, num_steps=1, world_size=2, accumulation=2)
    with pytest.raises(UserError, match="batch_size 10 is more than the 9 images"):
        EpochSampler(9, 10, 0, num_steps=1)
    with pytest.raises(
        UserError,
        match=r"takes 16 identities x 4 images, .* lower --run.batch_size .* to 12 or less",
    ):
        IdentitySampler(np.array([0, 1, 2, -1]), 0, num_steps=1)
    with pytest.raises(UserError, match=r"--run\.batch_size 6: its 3 identities cannot be shared"):
        IdentitySampler(
            np.arange(9),
            0,
            num_steps=1,
            identities_per_batch=3,
            images_per_identity=2,
            world_size=2,
        )


def cluster_sampler(labels, seed=0, **options):
    defaults = {"clusters_per_batch": 4, "images_per_cluster": 3, "steps_per_epoch": 5}
    return ClusterSampler(labels, seed, **{**defaults, "num_steps": 10, **options})


@fast
@given(
    seed=st.integers(0, 99), clusters=st.integers(1, 9), outliers=st.integers(0, 5), data=st.data()
)
def test_cluster_batches_hold_whole_groups_and_no_outlier(seed, clusters, outliers, data):
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=clusters, max_size=clusters))
    labels = np.repeat([*range(clusters), -1], [*sizes, outliers])
    batches = list(cluster_sampler(labels, seed))
    assert len(batches) == 10
    for epoch in (0, 1):
        items = list(chain(*batches[5 * epoch : 5 * epoch + 5]))
        assert {e for e, _, _ in items} == {epoch}
        assert len({(index, copy) for _, index, copy in items}) == len(items)
        groups = [[index for _, index, _ in items[i : i + 3]] for i in range(0, len(items), 3)]
        for group in groups:
            (label,) = set(labels[group])
            assert label >= 0
            assert len(set(group)) == min(3, sizes[label])
        for start in range(0, len(groups), clusters):  # each pass takes every cluster once
            taken = [labels[group[0]] for group in groups[start : start + clusters]]
            assert len(set(taken)) == len(taken)


def one_cluster(cameras, number, size=8):
    """``number`` draws of ``size`` images from one cluster seen by ``cameras``; (number, size)."""
    labels = np.zeros(len(cameras), int)
    sampler = cluster_sampler(
        labels, cameras=None if cameras is None else np.asarray(cameras), clusters_per_batch=1,
        images_per_cluster=size, steps_per_epoch=number, num_steps=number,
    )  # fmt: skip
    return np.array([[index for _, index, _ in batch] for batch in sampler])


def reference_draw(cameras, rng, size=8):
    """The published rule in a plain loop: an anchor, then others of other cameras if there are."""
    anchor = rng.integers(len(cameras))
    others = [i for i, camera in enumerate(cameras) if camera != cameras[anchor]]
    others = others or [i for i in range(len(cameras)) if i != anchor]
    chosen = [anchor]
    while len(chosen) < size:
        pick = others[rng.integers(len(others))]
        if len(others) < size or pick not in chosen:
            chosen.append(pick)
    return chosen


@pytest.mark.parametrize(
    "cameras",
    [
        [0, 0, 0, 0, 0, 0, 1, 2],  # too few of other cameras, whichever comes first
        [0] * 9 + [1] * 3,  # enough for three anchors of twelve
        [0] * 8 + [1] * 8,  # 8 of the other camera: different ones
        [0] * 7 + [1] * 7,  # 7 of them: with replacement
        [4, 4, 4],  # one camera, too few
        [4] * 12,  # one camera, enough
    ],
)
def test_cluster_draws_are_distributed_as_the_reference(cameras):
    number, cameras = 2500, np.array(cameras)
    rng = np.random.default_rng(0)
    ours = one_cluster(cameras, number)
    theirs = np.array([reference_draw(cameras, rng) for _ in range(number)])

    def figures(draws):
        """How often each image is the first and among the others, and how many are different."""
        rest = np.stack([(draws[:, 1:] == image).sum(1) for image in range(len(cameras))], 1)
        first = draws[:, :1] == np.arange(len(cameras))
        different = [[len(set(row))] for row in draws.tolist()]
        return np.concatenate([first, rest, different], axis=1).astype(float)

    a, b = figures(ours), figures(theirs)
    error = np.hypot(a.std(0), b.std(0)) / number**0.5
    assert (np.abs(a.mean(0) - b.mean(0)) <= 4.5 * error).all()
    np.testing.assert_allclose(a.std(0), b.std(0), atol=0.05)
    if len(set(cameras)) > 1:
        same = cameras[ours[:, 1:]] == cameras[ours[:, :1]]
        assert not same.any(), "an image of the anchor's camera beside other cameras"


def test_cluster_draws_with_an_image_alone_or_without_cameras():
    assert (one_cluster([3], 2) == 0).all()
    labels = np.zeros(8, int)
    cameras = np.array([0, 0, 0, 0, 0, 0, 1, 2])
    options = {"clusters_per_batch": 1, "steps_per_epoch": 40, "num_steps": 40}
    plain = [cameras[[index for _, index, _ in b]] for b in cluster_sampler(labels, **options)]
    assert any(len(set(found)) == 1 for found in plain)


def test_whole_passes_drop_the_clusters_that_fill_no_batch():
    labels = np.repeat(np.arange(7), 3)  # 7 clusters, 4 of them a batch: 3 are left over

    def most_often(**options):
        """How often a cluster is in the batch that holds one most often, and clusters in all."""
        batches = [labels[[index for _, index, _ in b]] for b in cluster_sampler(labels, **options)]
        return max(np.bincount(b).max() for b in batches), len(set(np.concatenate(batches)))

    assert most_often() == (6, 7)
    assert most_often(whole_passes=True) == (3, 7)
    assert most_often(whole_passes=True, clusters_per_batch=8) == (6, 7)  # no pass fills a batch


def test_cluster_draws_depend_on_seed_and_epoch_only():
    labels, cameras = np.arange(60) % 7 - 1, np.arange(60) % 5
    whole = list(cluster_sampler(labels, 3, cameras=cameras))
    assert list(cluster_sampler(labels, 3, cameras=cameras)) == whole
    for first in (1, 4, 5, 9):
        assert list(cluster_sampler(labels, 3, cameras=cameras, first_step=first)) == whole[first:]
    assert list(cluster_sampler(labels, 4, cameras=cameras)) != whole
    epochs = [[i[1:] for b in whole[start : start + 5] for i in b] for start in (0, 5)]
    assert epochs[0] != epochs[1]


def test_cluster_batches_do_not_depend_on_processes_or_start():
    labels = np.arange(40) % 7 - 1

    def build(**share):
        return cluster_sampler(labels, 3, **share)

    whole = joined(build, 1, 1)
    assert joined(build, 2, 2) == whole
    assert list(build(first_step=7)) == whole[7:]


def test_only_outliers_are_refused():
    with pytest.raises(UserError, match="all images are outliers"):
        cluster_sampler(np.full(9, -1))


def test_a_part_of_a_spread_batch_has_images_of_everybody():
    identities = np.repeat(np.arange(9), 8)
    options = {"identities_per_batch": 4, "images_per_identity": 8, "num_steps": 2}
    whole, spread = (IdentitySampler(identities, 3, **options, spread=s) for s in (False, True))
    for step in range(2):
        assert sorted(whole.global_batch(step)) == sorted(spread.global_batch(step))
        people = identities[[item[1] for item in spread.global_batch(step)]].reshape(4, 8)
        assert all(np.unique(part, return_counts=True)[1].tolist() == [2] * 4 for part in people)
    IdentitySampler(identities, 3, **options, spread=True, world_size=8)
    with pytest.raises(UserError, match=r"its 8 images .* cannot be shared by 3"):
        IdentitySampler(identities, 3, identities_per_batch=3, images_per_identity=8, num_steps=1,
                        spread=True, world_size=3)  # fmt: skip
