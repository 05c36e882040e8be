"""Label budgets: the papers' sizes, fair and nested draws, and the authors' lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transreid_ssl.data.budget import (
    budgeted,
    describe_budget,
    label_budget,
    read_budget,
    repeated,
    write_budget,
)
from transreid_ssl.data.pool import FilesPool
from transreid_ssl.data.readers import open_reid
from transreid_ssl.data.reid import LabelledImages, merge
from transreid_ssl.data.samplers import IdentitySampler
from transreid_ssl.errors import UserError

# Identities and images to train on, then how many of each arXiv 2012.03753 keeps at SHARES.
PUBLISHED = {
    "market1501": (751, 12_936, (75, 225, 525), (1_293, 3_880, 9_055)),
    "msmt17": (1_041, 32_621, (104, 312, 728), (3_262, 9_786, 22_834)),
    "duke": (702, 16_522, (70, 210, 491), (1_652, 4_956, 11_565)),
    "cuhk03_labeled": (767, 7_368, (76, 230, 536), (767, 2_210, 5_157)),
}
SHARES = (0.1, 0.3, 0.7)


def labelled(identities, names=None):
    """Images of these identities, without files."""
    names = names or [f"{p:04d}_c{i % 6 + 1}_{i}.jpg" for i, p in enumerate(identities)]
    cameras = np.arange(len(identities)) % 6
    return LabelledImages(FilesPool("here", "here", names), identities, cameras)


def uneven(num_identities, num_images, seed=0):
    """Shuffled identities with one image at least, most with few and some with many."""
    rng = np.random.default_rng(seed)
    weights = rng.gamma(1.5, size=num_identities)
    extra = rng.choice(num_identities, num_images - num_identities, p=weights / weights.sum())
    return rng.permutation(np.concatenate([np.arange(num_identities), extra]))


def counts_of(images, indices):
    people = np.unique(images.identities)
    return (images.identities[indices] == people[:, None]).sum(1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    num_identities, num_images, identities, sizes = PUBLISHED[name]
    images = labelled(uneven(num_identities, num_images))
    for share, people, size in zip(SHARES, identities, sizes):
        by_identity = images.subset(label_budget(images, share, "identity"))
        assert by_identity.num_identities == people
        by_image = images.subset(label_budget(images, share, "image"))
        assert (by_image.num_identities, len(by_image)) == (num_identities, size)


def test_identities_keep_all_of_their_images():
    images = labelled(uneven(50, 600))
    kept = label_budget(images, 0.3, "identity")
    chosen = np.unique(images.identities[kept])
    assert len(chosen) == 15
    assert kept.tolist() == np.flatnonzero(np.isin(images.identities, chosen)).tolist()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_images_are_dealt_out_as_by_a_slow_loop(share):
    """One each, then each time to whoever reaches the smallest share with half of one more."""
    images = labelled(uneven(40, 500, seed=3))
    sizes = np.bincount(images.identities)
    counts, dealt = np.ones(40, int), []
    while counts.sum() < int(500 * share):
        turns = np.where(counts < sizes, (counts + 0.5) / sizes, np.inf)
        dealt.append(turns.min())
        counts[turns.argmin()] += 1
    kept = counts_of(images, label_budget(images, share, "image", seed=5))
    # Whose turn comes at the same share is drawn, so the shares are compared and not the counts.
    assert dealt == sorted(
        (j + 0.5) / n for n, kept_of in zip(sizes, kept) for j in range(1, kept_of)
    )


def test_a_share_of_each_identity():
    images = labelled(np.repeat([0, 1, 2], [10, 20, 40]))
    assert counts_of(images, label_budget(images, 0.3, "image")).tolist() == [3, 6, 12]
    assert counts_of(images, label_budget(images, 0.01, "image")).tolist() == [1, 1, 1]


def test_floors_do_not_stumble_over_floats():
    assert 0.29 * 100 < 29
    images = labelled(np.arange(100))
    assert len(label_budget(images, 0.29, "identity")) == 29
    assert len(label_budget(images, 0.001, "identity")) == 1


def test_distractors_are_never_kept():
    images = labelled(np.repeat([-1, 4, 9], 10))
    assert images.subset(label_budget(images, 0.5, "identity")).num_identities == 1
    for by in ("identity", "image"):
        assert label_budget(images, 1.0, by).tolist() == list(range(10, 30))


@pytest.mark.parametrize("by", ["identity", "image"])
def test_the_seed_decides(by):
    images = labelled(uneven(60, 500))
    draws = [label_budget(images, 0.3, by, seed).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_images_of_an_identity_are_equally_likely():
    images = labelled(np.repeat([0, 1], [4, 12]))
    kept = np.zeros(16)
    for seed in range(600):
        kept[label_budget(images, 0.25, "image", seed)] += 1 / 600
    np.testing.assert_allclose(kept, 0.25, atol=0.07)


@settings(max_examples=60, deadline=None)
@given(
    identities=st.lists(st.integers(-1, 8), min_size=1, max_size=60).filter(lambda x: max(x) >= 0),
    shares=st.tuples(*[st.integers(1, 100)] * 2),
    seed=st.integers(0, 2**32),
)
def test_sizes_and_nesting(identities, shares, seed):
    images = labelled(np.array(identities))
    known = images.identities[images.identities >= 0]
    people, sizes = np.unique(known, return_counts=True)
    low, high = sorted(shares)
    for by in ("identity", "image"):
        small, large = (
            label_budget(images, hundredth / 100, by, seed) for hundredth in (low, high)
        )
        assert set(small) <= set(large)
        assert (np.diff(large) > 0).all()
        kept = images.subset(large)
        assert (kept.identities >= 0).all()
        if by == "identity":
            assert kept.num_identities == max(1, high * len(people) // 100)
            continue
        assert len(kept) == max(len(people), high * len(known) // 100)
        counts = np.array([(kept.identities == person).sum() for person in people])
        assert counts.min() >= 1
        # Nobody has a second image while another's next would be nearer to its share.
        last = np.where(counts > 1, (counts - 0.5) / sizes, 0)
        following = np.where(counts < sizes, (counts + 0.5) / sizes, np.inf)
        assert last.max() <= following.min()


@pytest.mark.parametrize(
    ("share", "by", "message"),
    [
        (0.0, "identity", "a label budget of 0.0: give a share above 0 and up to 1"),
        (10, "image", "a label budget of 10"),
        (float("nan"), "image", "a label budget of nan"),
        (0.5, "people", "a label budget by 'people': give identity or image"),
    ],
)
def test_refused_budgets(share, by, message):
    with pytest.raises(UserError, match=message):
        label_budget(labelled([0, 1]), share, by)


def test_nothing_to_choose_from():
    with pytest.raises(UserError, match="here: no image of it has an identity"):
        label_budget(labelled([-1, -1]), 0.5, "image")


# -- lists

NAMES = ["a/0002_c1s1_1.jpg", "a/0002_c3s1_2.jpg", "b/0007_c6s3_3.png", "b/0010_c2s1_4.jpg"]


@pytest.fixture
def market():
    return LabelledImages(FilesPool("here", "here", NAMES), [2, 2, 7, 10], [0, 2, 5, 1])


def write_list(tmp_path, text):
    (tmp_path / "used.txt").write_bytes(text.encode())
    return tmp_path / "used.txt"


def test_what_is_written(market, tmp_path):
    write_budget(tmp_path / "ids.txt", market, np.array([0, 1, 3]), "identity")
    assert (tmp_path / "ids.txt").read_text() == "2\n10\n"
    write_budget(tmp_path / "ims.txt", market, np.array([1, 2]), "image")
    assert (tmp_path / "ims.txt").read_text() == "0002_c3s1_2.jpg; 0; 2\n0007_c6s3_3.png; 1; 5\n"
    blind = LabelledImages(market.pool, market.identities)
    write_budget(tmp_path / "ims.txt", blind, np.array([3]), "image")
    assert (tmp_path / "ims.txt").read_text() == "0010_c2s1_4.jpg; 0; -1\n"


@pytest.mark.parametrize("by", ["identity", "image"])
def test_written_lists_read_again(by, tmp_path):
    train = open_reid("demo:identities=9,images=6,test=2").train
    indices = label_budget(train, 0.5, by)
    write_budget(tmp_path / "list.txt", train, indices, by)
    assert read_budget(tmp_path / "list.txt", train).tolist() == indices.tolist()


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("7 \r\n2 \r\n", [0, 1, 2]),  # as the authors' files end their lines
        ("\n 0010\n\n10", [3]),
        ("0007_c6s3_3.jpg; 1; 5 \r\n0002_c1s1_1.jpg; 0; 0 \r\n", [0, 2]),
        ("0002_c3s1_2;0;2\nx/y/0002_c3s1_2.JPG ; 0 ; 2", [1]),
    ],
)
def test_lists_of_both_formats(market, tmp_path, text, indices):
    assert read_budget(write_list(tmp_path, text), market).tolist() == indices


def test_msmt17_by_the_authors_names(tmp_path):
    """Their copy of MSMT17 has Market-1501's layout: identity, camera, number of the image."""
    names = [
        "0000/0000_036_12_0303morning_0001_0_ex.jpg",
        "0000/0000_012_07_0303morning_0010_0.jpg",
        "0001/0001_036_12_0113afternoon_0001_0.jpg",
    ]
    images = LabelledImages(FilesPool("here", "here", names), [0, 0, 1], [11, 6, 11])
    theirs = write_list(tmp_path, "0001_c12_0036.jpg; 1; 11 \n0000_c7_0012.jpg; 0; 6 \n")
    assert read_budget(theirs, images).tolist() == [1, 2]
    own = write_list(tmp_path, "0000_036_12_0303morning_0001_0_ex.jpg; 0; 11")
    assert read_budget(own, images).tolist() == [0]
    assert read_budget(write_list(tmp_path, "0"), images).tolist() == [0, 1]
    with pytest.raises(UserError, match=r"1 of its 1 image \(such as '0000_c7_0036.jpg'\) is not"):
        read_budget(write_list(tmp_path, "0000_c7_0036.jpg; 0; 6"), images)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list of labels is empty"),
        (" \n\n", "the list of labels is empty"),
        ("2\n3\n11\n", r"2 of its 3 identities \(such as 3\) are not in this set"),
        ("-1", "line 1 is not an identity: '-1'"),
        ("2\n\n7; 1; 1", "line 3 is not an identity: '7; 1; 1'"),
        ("0002_c1s1_1.jpg", "line 1 is not an identity"),
        ("0002_c1s1_1.jpg; 0; 0\n7", "line 2 is not 'name; label; camera': '7'"),
        ("0002_c1s1_1.jpg; 0", "line 1 is not 'name; label; camera'"),
        ("0002_c1s1_1.jpg; x; 0", "line 1 is not 'name; label; camera'"),
        ("0002_c1s1_1.jpg; 0; 0\nq.jpg; 1; 1", r"1 of its 2 images \(such as 'q.jpg'\)"),
    ],
)
def test_refused_lists(market, tmp_path, text, message):
    path = write_list(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        read_budget(path, market)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_lists_that_cannot_be_read(market, tmp_path):
    with pytest.raises(UserError, match=r"nothing\.txt: .*no such file"):
        read_budget(tmp_path / "nothing.txt", market)
    (tmp_path / "used.txt").write_bytes(b"\xff\xfe2")
    with pytest.raises(UserError, match=r"used\.txt: .*not UTF-8 text"):
        read_budget(tmp_path / "used.txt", market)


def test_a_byte_order_mark_is_no_part_of_the_first_line(market, tmp_path):
    path = write_list(tmp_path, "\ufeff2\r\n10\r\n")
    assert read_budget(path, market).tolist() == [0, 1, 3]


def test_two_images_of_one_name(tmp_path):
    images = labelled([1, 2], ["1/c1_0.jpg", "2/c1_0.png"])
    message = "1/c1_0.jpg and 2/c1_0.png have one base name"
    with pytest.raises(UserError, match=message):
        write_budget(tmp_path / "list.txt", images, np.array([0]), "image")
    assert not (tmp_path / "list.txt").exists()
    with pytest.raises(UserError, match=message):
        read_budget(write_list(tmp_path, "c1_0.jpg; 0; 0"), images)
    assert read_budget(write_list(tmp_path, "2"), images).tolist() == [1]


def test_distractors_are_no_identity_of_a_list(tmp_path):
    assert read_budget(write_list(tmp_path, "5"), labelled([-1, 5])).tolist() == [1]


# -- for fine-tuning


def test_budgeted(market, tmp_path):
    assert budgeted(market) is market
    assert budgeted(market, 1.0) is market
    part = budgeted(market, 0.7, "identity", seed=3)
    assert (
        part.identities.tolist()
        == market.identities[label_budget(market, 0.7, "identity", 3)].tolist()
    )
    assert part.num_identities == 2
    listed = budgeted(market, list_path=write_list(tmp_path, "7"))
    assert list(listed.names) == [NAMES[2]]
    assert listed.cameras.tolist() == [5]
    with pytest.raises(UserError, match=r"a list of labels and a budget of 0\.1; give one"):
        budgeted(market, 0.1, list_path=tmp_path / "used.txt")


def test_repeated_as_the_few_shot_lists_are(market, tmp_path):
    indices = np.array([2, 5, 7])
    assert repeated(indices, 1).tolist() == [2, 5, 7]
    assert repeated(indices, 2).tolist() == [2, 2, 5, 5, 7, 7]
    assert repeated(indices, 2.7).tolist() == [2, 2, 2, 5, 5, 5, 7, 7]
    listed = budgeted(market, list_path=write_list(tmp_path, "2"), repeat=2)
    assert list(listed.names) == [name for name in NAMES[:2] for _ in range(2)]
    assert listed.identities.tolist() == [2] * 4
    line = describe_budget(market, listed, list_path="l.txt", repeat=2)
    assert line == "labels of l.txt: 1 of 3 identities, 2 of 4 images, each counted 2 times"
    assert len(budgeted(market, repeat=3)) == 3 * len(market)
    share = budgeted(market, 0.7, "identity", seed=3, repeat=1.5)
    assert len(share) == int(1.5 * len(budgeted(market, 0.7, "identity", seed=3)))


def test_repeated_images_fill_more_groups():
    """People of 3 images: 6 of them make one group of 4 more, 9 two; one image is padded anyway."""
    for per_person, steps in ((3, (10, 10, 20)), (1, (10, 10, 10)), (4, (10, 20, 30))):
        person = np.repeat(np.arange(20), per_person)
        for times, expected in zip((1, 2, 3), steps, strict=True):
            copies = person[repeated(np.arange(len(person)), times)]
            sampler = IdentitySampler(
                copies, 0, identities_per_batch=2, images_per_identity=4, num_steps=1
            )
            assert sampler.steps_per_epoch == expected


def test_described(market, tmp_path):
    path = write_list(tmp_path, "2")
    listed = budgeted(market, list_path=path)
    line = describe_budget(market, listed, list_path=path)
    assert line == f"labels of {path}: 1 of 3 identities, 2 of 4 images"
    whole = labelled(uneven(751, 12_936))
    line = describe_budget(whole, budgeted(whole, 0.1, "image"), 0.1, "image")
    assert line == "10 % of the labels by image: 751 of 751 identities, 1,293 of 12,936 images"
    assert describe_budget(market, market) == "all labels: 3 of 3 identities, 4 of 4 images"


def test_merged_sets_are_matched_by_name_too(tmp_path):
    protocols = [open_reid(f"demo:identities=3,images=4,test=2,first={first}") for first in (0, 9)]
    train = merge(protocols).train
    indices = label_budget(train, 0.6, "image")
    write_budget(tmp_path / "list.txt", train, indices, "image")
    assert read_budget(tmp_path / "list.txt", train).tolist() == indices.tolist()
