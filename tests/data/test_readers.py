"""Labelled sets: Market-1501's and MSMT17's layouts, folders by pattern, several sets as one."""

import numpy as np
import pytest

from transreid_ssl.data.reader_layouts import Counts, MarketFolders
from transreid_ssl.data.readers import READERS, open_reid
from transreid_ssl.data.reid import LabelledImages, matchable, split_queries
from transreid_ssl.errors import UserError

MARKET = [
    "bounding_box_train/0002_c1s1_000451_03.jpg",
    "bounding_box_train/0002_c3s1_000551_00.jpg",
    "bounding_box_train/0007_c6s3_077419_03.jpg",
    "query/0001_c1s1_001051_00.jpg",
    "bounding_box_test/0001_c2s1_001051_00.jpg",
    "bounding_box_test/0001_c1s1_001051_03.jpg",
    "bounding_box_test/0000_c4s1_000151_01.jpg",
    "bounding_box_test/-1_c5s1_000151_02.jpg",
]


def write_msmt17(root, write_images, masked=False):
    train, test = ("mask_train_v2", "mask_test_v2") if masked else ("train", "test")
    lists = {
        "train": ["0000/0000_000_01_0303morning_0008_0.jpg 0", "0001/0001_000_15_x_0_0.jpg 1"],
        "val": ["0002/0002_000_03_0303morning_0008_0.jpg 2"],
        "query": ["0000/0000_000_02_0302noon_0008_0.jpg 0"],
        "gallery": ["0000/0000_001_05_0302noon_0008_0.jpg 0", "0001/0001_001_05_x_0_0.jpg 1"],
    }
    for part, lines in lists.items():
        folder = train if part in ("train", "val") else test
        write_images(root / folder, [line.split()[0] for line in lines])
        (root / f"list_{part}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_market1501(tmp_path, write_images, encoded):
    write_images(tmp_path / "Market-1501-v15.09.15", MARKET)
    for root in (tmp_path, tmp_path / "Market-1501-v15.09.15"):
        protocol = open_reid("market1501", root)
        assert protocol.train.identities.tolist() == [2, 2, 7]
        assert protocol.train.cameras.tolist() == [0, 2, 5]
        assert protocol.query.identities.tolist() == [1]
        # sorted: "-1…" (left out), "0000…" (a distractor), then person 1 in cameras 1 and 2
        assert protocol.gallery.identities.tolist() == [-1, 1, 1]
        assert protocol.gallery.cameras.tolist() == [3, 0, 1]
        assert protocol.gallery.num_identities == 1
        assert not any(name.startswith("-1") for name in protocol.gallery.names)
    assert protocol.query.read(0) == encoded(3)
    assert (protocol.query.identity_of(0), protocol.query.camera_of(0)) == ("0001", "1")
    people = [protocol.gallery.identity_of(index) for index in range(3)]
    assert people == [None, "0001", "0001"]
    line = protocol.describe()
    assert line.startswith(
        "market1501: train 3 images / 2 identities / 3 cameras; query 1 image / 1 "
    )
    assert "NOT the official split (751 identities / 12,936 images" in line


def test_official_counts_are_recognised(tmp_path, write_images, monkeypatch):
    write_images(tmp_path, MARKET)
    few = MarketFolders("Market-1501", (), Counts(2, 3, 1, 3))
    monkeypatch.setitem(READERS, "market1501", few.read)
    assert open_reid("market1501", tmp_path).split == "official split"


@pytest.mark.parametrize("masked", [False, True])
def test_msmt17(tmp_path, write_images, masked, encoded):
    version = "MSMT17_V2" if masked else "MSMT17_V1"
    write_msmt17(tmp_path / version, write_images, masked)
    protocol = open_reid("msmt17", tmp_path)
    assert protocol.train.identities.tolist() == [0, 1, 2], "train and val lists"
    assert protocol.train.cameras.tolist() == [0, 14, 2]
    assert protocol.query.identities.tolist() == [3], "not the same person as 0 in training"
    assert protocol.gallery.identities.tolist() == [3, 4]
    assert protocol.gallery.cameras.tolist() == [4, 4]
    assert protocol.gallery.read(1) == encoded(1)
    assert [protocol.gallery.identity_of(index) for index in (0, 1)] == ["0", "1"], "as in its list"
    assert protocol.gallery.camera_of(0) == "5"
    line = protocol.describe()
    assert "train + val lists" in line
    assert ("V2 (masked faces" in line) is masked
    assert "NOT the official split (1,041 identities / 32,621" in line


def test_msmt17_without_its_validation_list(tmp_path, write_images):
    write_images(tmp_path / "Market-1501", MARKET)
    write_msmt17(tmp_path / "MSMT17", write_images)
    protocol = open_reid("msmt17_train", tmp_path)
    assert protocol.train.identities.tolist() == [0, 1]
    assert protocol.train.cameras.tolist() == [0, 14]
    assert len(protocol.query) == 1
    assert len(protocol.gallery) == 2
    assert protocol.query.identities.tolist() == [2], "not the same person as 0 in training"
    line = protocol.describe()
    assert ", train list, V1" in line
    assert "NOT the official split (1,041 identities / 30,248" in line
    both = open_reid("msmt17_train+market1501", tmp_path)
    assert len(both.train) == 2 + 3
    assert both.train.names[0] == "msmt17_train/0000/0000_000_01_0303morning_0008_0.jpg"


def test_msmt17_complaints(tmp_path, write_images):
    root = write_msmt17(tmp_path, write_images)
    (root / "list_val.txt").write_text("0002/0002_000_03_0303morning_0008_0.jpg\n")
    with pytest.raises(UserError, match=r"list_val\.txt: line 1 is not 'image identity'"):
        open_reid("msmt17", root)
    (root / "list_val.txt").write_text("")
    (root / "list_query.txt").write_text("0009/0009_000_02_x_0_0.jpg 9\n")
    with pytest.raises(UserError, match=r"0009_000_02_x_0_0\.jpg: listed but not there"):
        open_reid("msmt17", root)
    (root / "list_query.txt").unlink()
    with pytest.raises(UserError, match="not MSMT17"):
        open_reid("msmt17", root)


@pytest.mark.parametrize("joined", [True, False])
def test_two_sets_as_one(tmp_path, write_images, joined):
    write_images(tmp_path / "Market-1501", MARKET)
    write_msmt17(tmp_path / "MSMT17", write_images)
    root = tmp_path if joined else f"{tmp_path / 'Market-1501'},{tmp_path / 'MSMT17'}"
    protocol = open_reid("market1501+msmt17", root)
    assert protocol.name == "market1501+msmt17"
    assert protocol.train.identities.tolist() == [2, 2, 7, 8, 9, 10]
    assert protocol.train.cameras.tolist() == [0, 2, 5, 6, 20, 8]
    assert protocol.query.identities.tolist() == [1, 11]
    assert protocol.gallery.identities.tolist() == [-1, 1, 1, 11, 12]
    assert protocol.train.names[3] == "msmt17/0000/0000_000_01_0303morning_0008_0.jpg"
    alone = open_reid("msmt17", tmp_path / "MSMT17")
    assert protocol.gallery.read(4) == alone.gallery.read(1)
    assert protocol.describe().count("NOT the official split") == 2
    people = [protocol.gallery.identity_of(index) for index in (1, 3)]
    assert people == ["market1501/0001", "msmt17/0"]
    assert protocol.train.subset([5]).camera_of(0) == "msmt17/3"


def test_folder_with_parts(tmp_path, write_images):
    names = ["train/ann_2_a.png", "train/bob_1.jpg", "query/eve_1.jpg", "gallery/x/eve_2.jpg"]
    write_images(tmp_path, names)
    protocol = open_reid("folder", tmp_path, r"(?P<identity>[a-z]+)_(?P<camera>\d)")
    assert protocol.train.identities.tolist() == [0, 1]
    assert protocol.train.cameras.tolist() == [2, 1]
    assert protocol.query.identities.tolist() == protocol.gallery.identities.tolist() == [2]
    assert "your own split" in protocol.describe()


def test_one_folder_queries_are_the_first_of_each_identity_and_camera(tmp_path, write_images):
    names = [f"000{i}_c{c}_{n}.jpg" for i in (1, 2) for c in (1, 2) for n in range(3)]
    write_images(tmp_path, [*names, "-1_c1_0.jpg"])
    protocol = open_reid("folder", tmp_path)
    assert [name[:9] for name in protocol.query.names] == [
        "0001_c1_0", "0001_c2_0", "0002_c1_0", "0002_c2_0",
    ]  # fmt: skip
    assert len(protocol.gallery) == 9
    assert protocol.gallery.identities.min() == -1
    assert len(protocol.train) == 13
    assert "one folder" in protocol.describe()


def test_folder_per_person_without_cameras(tmp_path, write_images):
    write_images(tmp_path, ["7/a.jpg", "7/b.jpg", "9/a.jpg", "9/b.jpg"])
    protocol = open_reid("folder", tmp_path, r"(?P<identity>\d+)/")
    assert protocol.train.cameras is None
    assert protocol.query.identities.tolist() == protocol.gallery.identities.tolist() == [7, 9]
    assert "cameras" not in protocol.describe()


def test_generated_people():
    protocol = open_reid("demo:identities=2,images=4,test=2")
    assert "generated" in protocol.describe()
    assert protocol.train.num_identities == 2


def complaint(*arguments, **options):
    with pytest.raises(UserError) as caught:
        open_reid(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_complaints(tmp_path, write_images):
    known = f"known are {', '.join(READERS)}, demo, also"
    assert known in complaint("duke", tmp_path)
    assert "where is it" in complaint("market1501")
    assert "no such folder" in complaint("market1501", tmp_path / "nothing")
    assert "lacks bounding_box_train, query, bound" in complaint("market1501", tmp_path)
    assert "3 folders for 2 sets" in complaint("market1501+msmt17", "a,b,c")
    assert "no image of train" not in complaint("folder", tmp_path)
    write_images(tmp_path, ["query/1_c1.jpg", "gallery/2_c1.jpg"])
    assert "no query has a match" in complaint("folder", tmp_path, purpose="test")
    write_images(tmp_path, ["gallery/1_c1.jpg"])
    assert "all images are of one camera" in complaint("folder", tmp_path, purpose="test")
    assert "no image to train on" in complaint("folder", tmp_path, purpose="train")
    write_images(tmp_path, ["gallery/cat.jpg"])
    message = complaint("folder", tmp_path)
    assert "1 of 3 image names, such as 'cat.jpg'" in message
    assert "not a regular expression" in complaint("folder", tmp_path, "(")
    assert "lacks the group" in complaint("folder", tmp_path, ".")
    (tmp_path / "lonely").mkdir()
    write_images(tmp_path / "lonely", ["1_c1.jpg", "2_c1.jpg"])
    message = complaint("folder", tmp_path / "lonely", purpose="test")
    assert "no labelled image for the gallery" in message


class Numbered:
    """Enough of a pool to carry labels."""

    def __init__(self, count):
        self.names = [str(i) for i in range(count)]

    def __len__(self):
        return len(self.names)


def labelled(rng, count, with_cameras=True):
    cameras = rng.integers(0, 3, count) if with_cameras else None
    return LabelledImages(Numbered(count), rng.integers(-1, 6, count), cameras)


@pytest.mark.parametrize("seed", range(5))
def test_matchable_equals_looking_at_every_pair(seed):
    rng = np.random.default_rng(seed)
    query, gallery = labelled(rng, 30), labelled(rng, 12)
    expected = [
        any(
            i == j >= 0 and c != d
            for j, d in zip(gallery.identities.tolist(), gallery.cameras.tolist())
        )
        for i, c in zip(query.identities.tolist(), query.cameras.tolist())
    ]
    assert matchable(query, gallery).tolist() == expected


def test_split_queries_leaves_nothing_out():
    images = labelled(np.random.default_rng(1), 50)
    query, gallery = split_queries(images)
    assert sorted([*query, *gallery]) == list(range(50))
    pairs = {(images.identities[i], images.cameras[i]) for i in query}
    assert len(pairs) == len(query)


def test_labels_must_fit_the_images():
    with pytest.raises(ValueError, match="labels of shape"):
        LabelledImages(Numbered(3), [1, 2])
