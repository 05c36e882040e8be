"""The sets that lie on disk as Market-1501 does: their names, usual folders and published sizes."""

import pytest

from transreid_ssl.data.readers import READERS, open_reid
from transreid_ssl.errors import UserError

PARTS = ("bounding_box_train", "query", "bounding_box_test")
# set -> a usual folder, and the names of two training images, a query and two of the gallery
SETS = {
    "market1501": (
        "Market-1501-v15.09.15",
        ["0002_c1s1_000451_03.jpg", "0007_c6s3_077419_03.jpg"],
        ["0001_c1s1_001051_00.jpg"],
        ["0001_c2s1_001051_00.jpg", "0009_c4s2_001051_03.jpg"],
    ),
    "dukemtmc": (
        "DukeMTMC-reID",
        ["0001_c2_f0046182.jpg", "7140_c8_f0174242.jpg"],
        ["0005_c2_f0046985.jpg"],
        ["0005_c1_f0044238.jpg", "0006_c4_f0090514.jpg"],
    ),
    "occluded_duke": (
        "Occluded_Duke",
        ["0001_c2_f0046182.jpg", "7140_c8_f0174242.jpg"],
        ["0005_c2_f0046985.jpg"],
        ["0005_c1_f0044238.jpg", "0006_c4_f0090514.jpg"],
    ),
    "cuhk03_labeled": (
        "cuhk03-np/labeled",
        ["0001_c1_1.png", "0003_c2_6.png"],
        ["0002_c1_3.png"],
        ["0002_c2_8.png", "0004_c2_10.png"],
    ),
    "cuhk03_detected": (
        "cuhk03-np/detected",
        ["0001_c1_1.png", "0003_c2_6.png"],
        ["0002_c1_3.png"],
        ["0002_c2_8.png", "0004_c2_10.png"],
    ),
    "personx": (
        "PersonX",
        ["0001_c3s1_100.jpg", "0024_c12s1_350.jpg"],
        ["0411_c10s1_000.jpg"],
        ["0411_c4s1_010.jpg", "0412_c11s1_020.jpg"],
    ),
}
LABELS = {  # set -> (identities, cameras) of train, query and gallery together, as read by eye
    "market1501": ([2, 7, 1, 1, 9], [0, 5, 0, 1, 3]),
    "dukemtmc": ([1, 7140, 5, 5, 6], [1, 7, 1, 0, 3]),
    "occluded_duke": ([1, 7140, 5, 5, 6], [1, 7, 1, 0, 3]),
    "cuhk03_labeled": ([1, 3, 2, 2, 4], [0, 1, 0, 1, 1]),
    "cuhk03_detected": ([1, 3, 2, 2, 4], [0, 1, 0, 1, 1]),
    "personx": ([1, 24, 411, 411, 412], [2, 11, 9, 3, 10]),
}
# set -> training identities, and images of train, query and gallery, as their authors count them
PUBLISHED = {
    "market1501": "751 identities / 12,936 images to train, 3,368 queries and 15,913 gallery",
    "dukemtmc": "702 identities / 16,522 images to train, 2,228 queries and 17,661 gallery",
    "occluded_duke": "702 identities / 15,618 images to train, 2,210 queries and 17,661 gallery",
    "cuhk03_labeled": "767 identities / 7,368 images to train, 1,400 queries and 5,328 gallery",
    "cuhk03_detected": "767 identities / 7,365 images to train, 1,400 queries and 5,332 gallery",
    "personx": "410 identities / 9,840 images to train, 5,136 queries and 30,816 gallery",
}


def write_set(root, write_images, name):
    """The set in its usual folder below ``root``, with files that are no images in it."""
    folder, *parts = SETS[name]
    names = [f"{part}/{image}" for part, images in zip(PARTS, parts) for image in images]
    write_images(root / folder, names)
    for part in PARTS:
        (root / folder / part / "Thumbs.db").write_bytes(b"no image")
    return root / folder


@pytest.mark.parametrize("name", SETS)
def test_labels_are_read_from_the_parent_and_from_the_folder_itself(tmp_path, write_images, name):
    home = write_set(tmp_path, write_images, name)
    for root in (tmp_path, home.parent, home):
        protocol = open_reid(name, root)
        parts = protocol.train, protocol.query, protocol.gallery
        assert [len(part) for part in parts] == [2, 1, 2]
        labels = [[int(x) for part in parts for x in part.identities]]
        labels.append([int(x) for part in parts for x in part.cameras])
        assert labels == list(LABELS[name])
        assert protocol.name == name
        assert f"NOT the official split ({PUBLISHED[name]}" in protocol.describe()


def test_every_set_of_the_layout_is_tested_here():
    assert set(READERS) - {"msmt17", "msmt17_train", "folder"} == set(SETS)


def test_labelled_and_detected_boxes_are_told_apart(tmp_path, write_images):
    for number, kind in enumerate(("labeled", "detected"), 1):
        names = [f"{part}/0001_c{c}_{number}.png" for part in PARTS for c in (1, 2)]
        write_images(tmp_path / "cuhk03-np" / kind, names)
    for number, kind in enumerate(("labeled", "detected"), 1):
        for root in (tmp_path, tmp_path / "cuhk03-np"):
            protocol = open_reid(f"cuhk03_{kind}", root)
            assert list(protocol.query.names) == [f"0001_c1_{number}.png", f"0001_c2_{number}.png"]


def test_several_sets_below_one_parent(tmp_path, write_images):
    for name in ("market1501", "dukemtmc", "personx"):
        write_set(tmp_path, write_images, name)
    protocol = open_reid("market1501+dukemtmc+personx", tmp_path)
    assert len(protocol.train) == 6
    assert protocol.train.num_identities == 6
    assert protocol.train.num_cameras == 6
    assert protocol.describe().count("NOT the official split") == 3


def complaint(name, root):
    with pytest.raises(UserError) as caught:
        open_reid(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SETS)
def test_the_folder_that_nearly_is_one_is_named_with_what_it_lacks(tmp_path, write_images, name):
    home = write_set(tmp_path, write_images, name)
    (home / "query").rename(home / "queries")
    message = complaint(name, tmp_path)
    assert message.startswith(f"{home}: not ")
    assert "it lacks query;" in message


def test_the_mat_files_of_cuhk03_are_not_what_is_read(tmp_path):
    (tmp_path / "cuhk03_release").mkdir()
    (tmp_path / "cuhk03_release/cuhk-03.mat").write_bytes(b"")
    message = complaint("cuhk03_labeled", tmp_path)
    assert message.startswith(f"{tmp_path}: not CUHK03-NP, labeled: it lacks bounding_box_train")
    assert "cuhk03-np/labeled/bounding_box_train/0001_c1_1.png" in message
    assert ".mat" in message


def test_an_image_that_is_named_otherwise(tmp_path, write_images):
    home = write_set(tmp_path, write_images, "dukemtmc")
    write_images(home / "query", ["mosaic.jpg"])
    assert "1 of 2 image names, such as 'mosaic.jpg'" in complaint("dukemtmc", tmp_path)
