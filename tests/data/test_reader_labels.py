"""Labels of every kind: numbered from 0 or 1, text, junk, distractors; and what is not there."""

import re

import numpy as np
import pytest

from transreid_ssl.data.doctor import check_protocol
from transreid_ssl.data.name_patterns import without_camera
from transreid_ssl.data.readers import open_reid
from transreid_ssl.data.reid import camera_rows, matchable
from transreid_ssl.errors import UserError

TRAIN, TEST = "bounding_box_train", "bounding_box_test"


def market(root, write_images, people=(1, 2), cameras=(1, 2), parts=(TRAIN, "query", TEST)):
    """Each person of a part in each camera; queries are of the first camera."""
    names = {
        TRAIN: [f"{p + 7:04d}_c{c}s1_0.jpg" for p in people for c in cameras],
        "query": [f"{p:04d}_c{cameras[0]}s1_0.jpg" for p in people],
        TEST: [f"{p:04d}_c{c}s1_1.jpg" for p in people for c in cameras],
    }
    return write_images(root, [f"{part}/{name}" for part in parts for name in names[part]])


@pytest.mark.parametrize("people", [(1, 2), (0, 1)])
@pytest.mark.parametrize("cameras", [(1, 2), (0, 1), (0, 5), (3, 4)])
def test_people_and_cameras_from_0_or_1(tmp_path, write_images, people, cameras):
    protocol = open_reid("market1501", market(tmp_path, write_images, people, cameras))
    assert matchable(protocol.query, protocol.gallery).tolist() == [True, True]
    assert protocol.query.identities.tolist() == list(people)
    shift = min(1, cameras[0])
    assert protocol.gallery.cameras.tolist() == [c - shift for _ in people for c in cameras]
    assert protocol.notes == ()


def test_junk_and_distractors_are_told_apart_and_counted(tmp_path, write_images):
    root = market(tmp_path, write_images)
    write_images(root / TEST, ["0000_c1s1_0.jpg", "0000_c2s1_0.jpg", "-1_c1s1_0.jpg"])
    write_images(root / TRAIN, ["0000_c1s1_0.jpg"])
    protocol = open_reid("market1501", root)
    assert sorted(set(protocol.gallery.identities.tolist())) == [-1, 1, 2]
    assert 0 in protocol.train.identities, "who is trained on is a person"
    line = protocol.describe()
    assert "gallery: 1 junk image (-1) left out; gallery: 2 distractors (0)" in line


def test_numbers_that_are_too_large_are_one_line(tmp_path, write_images):
    root = market(tmp_path, write_images)
    write_images(root / "query", [f"{10**30}_c1s1_0.jpg"])
    with pytest.raises(UserError, match="a label is larger than"):
        open_reid("market1501", root)
    write_images(tmp_path / "mine", [f"{10**30}_c1.jpg", f"{10**30}_c2.jpg", "5_c1.jpg"])
    assert open_reid("folder", tmp_path / "mine").train.identities.tolist() == [0, 0, 1]


def test_training_images_may_be_missing(tmp_path, write_images):
    root = market(tmp_path, write_images, parts=("query", TEST))
    protocol = open_reid("market1501", root, purpose="test")
    assert (len(protocol.train), len(protocol.query), len(protocol.gallery)) == (0, 2, 4)
    assert f"nothing to train on: {root / TRAIN} is not there" in protocol.describe()
    with pytest.raises(UserError, match=r"no image to train on; .*bounding_box_train"):
        open_reid("market1501", root, purpose="train")
    with pytest.raises(UserError, match="these are not there"):
        camera_rows(protocol.query, protocol, 2)


def test_one_camera_trains_and_says_how_to_test_without(tmp_path, write_images):
    root = market(tmp_path, write_images, cameras=(1,))
    protocol = open_reid("market1501", root, purpose="train")
    assert len(protocol.train) == 2
    with pytest.raises(UserError, match=r"all images are of one camera .*; to evaluate without"):
        open_reid("market1501", root, purpose="test")
    advice = " | ".join(check_protocol(protocol))
    assert "cannot be evaluated on: no query has a match" in advice
    assert "no cameras" not in advice
    without = open_reid("folder", root, r"(?P<identity>-?\d+)_c", purpose="test")
    assert without.query.cameras is None
    assert [len(part) for part in (without.train, without.query, without.gallery)] == [2, 2, 2]
    assert not np.isin(without.train.identities, without.gallery.identities).any()


def test_folder_does_not_mix_markets_parts(tmp_path, write_images):
    root = market(tmp_path, write_images, parts=(TRAIN, TEST))
    with pytest.raises(UserError, match=r"but lacks query; add it, or give .*bounding_box_train"):
        open_reid("folder", root)
    assert "one folder" in open_reid("folder", root / TRAIN).describe()


def test_folder_with_labels_of_every_kind(tmp_path, write_images):
    write_images(tmp_path / "text", ["anna_cleft.jpg", "anna_cright.jpg", "otto_cleft.jpg"])
    protocol = open_reid("folder", tmp_path / "text", r"(?P<identity>\w+)_c(?P<camera>\w+)")
    assert protocol.train.identities.tolist() == [0, 0, 1]
    assert protocol.train.cameras.tolist() == [0, 1, 0]
    assert (protocol.query.identity_of(0), protocol.query.camera_of(1)) == ("anna", "right")
    write_images(tmp_path / "some", ["1_c1.jpg", "1_c2.jpg", "2.jpg", "-1.jpg"])
    protocol = open_reid("folder", tmp_path / "some", r"(?P<identity>-?\d+)(_c(?P<camera>\d+))?")
    assert protocol.train.cameras is None
    assert "cameras are not used: 2 of 4 names have none" in protocol.describe()
    assert "1 distractor (identities below 0)" in protocol.describe()
    with pytest.raises(UserError, match="do not match"):
        open_reid("folder", tmp_path / "some", r"(?P<identity>x)?\d")


def test_a_pattern_that_does_not_fit_is_told_by_the_part_that_fails(tmp_path, write_images):
    """On the name of a file; and what is advised instead of it fits."""
    root = write_images(tmp_path / "crops", ["cam7/p03-a.jpg", "cam7/p03-b.jpg", "cam7/p14-a.jpg"])

    def complaint(pattern, **more):
        with pytest.raises(UserError) as caught:
            open_reid("folder", root, pattern, **more)
        return str(caught.value)

    said = complaint(r"cam(?P<camera>\d+)/q(?P<identity>\d+)")
    assert (
        r"3 of 3 image names, such as 'cam7/p03-a.jpg', do not match 'cam(?P<camera>\d+)/q" in said
    )
    assert r"'cam(?P<camera>\d+)/' finds 'cam7/', and 'q(?P<identity>\d+)' fails); correct" in said
    said = complaint(r"(?:kam(?P<camera>\d+))?.*p(?P<identity>\d+)")
    assert "the group camera of '(?:kam" in said
    assert "is empty in every name, such as 'cam7/p03-a.jpg'" in said
    assert "the group camera of" in complaint(r"p(?P<identity>\d+)(?P<camera>\d*)")
    assert "finds" not in complaint(r"q(?P<identity>\d+)|x(?P<camera>\d+)")
    said = complaint(r"cam(?P<camera>\d+)/p(?P<identity>\d+)", purpose="test")
    assert "one camera ('cam" in said
    assert "finds camera '7', identity '03' in 'cam7/p03-a.jpg')" in said
    (advised,) = re.findall("such as '(.+)'$", said)
    protocol = open_reid("folder", root, advised, purpose="test")
    assert protocol.query.cameras is None
    assert protocol.train.identities.tolist() == [3, 3, 14]


@pytest.mark.parametrize(
    "pattern",
    [
        r"cam(?P<camera>\d+)/p(?P<identity>\d+)_(?P=camera)",
        r"cam(?P<camera>\d+)/p(?P<identity>\d+)_\1",
        r"cam(?P<camera>\d+)?/p(?P<identity>\d+)_(?(camera)\1|x)",
        r"(cam)(?P<camera>\d+)/(?P<identity>p\d+)_(?=\2)",
    ],
)
def test_what_is_advised_without_camera_finds_the_same(tmp_path, write_images, pattern):
    """Also where the pattern goes back to one of its groups."""
    root = write_images(tmp_path, [f"cam7/p{n}_7{m}.jpg" for n in "012" for m in "ab"])
    with pytest.raises(UserError, match="one camera") as caught:
        open_reid("folder", root, pattern, purpose="test")
    (advised,) = re.findall("such as '(.+)'$", str(caught.value))
    without = open_reid("folder", root, advised, purpose="test")
    assert without.query.cameras is None
    assert len(without.train) == 6


def test_no_pattern_is_advised_where_none_is_found():
    assert without_camera(r"(?P<camera>\d+)(?P<place>\d+)(?P=camera)") is None


@pytest.fixture
def msmt17(tmp_path, write_images):
    """Two persons to train on and two to test on, in cameras 0 and 1, with lists as of Windows."""
    lists = {
        "train": ["0000/0000_000_00_x_0.jpg 0", "0001/0001_000_01_x y_0.jpg 1"],
        "val": ["0001/0001_001_00_x_0.jpg 1"],
        "query": ["0000/0000_000_00_x_0.jpg 0", "0001/0001_000_00_x_0.jpg 1"],
        "gallery": ["0000/0000_001_01_x_0.jpg 0", "0001/0001_001_01_x_0.jpg 1"],
    }
    for part, lines in lists.items():
        folder = "train" if part in ("train", "val") else "test"
        write_images(tmp_path / folder, [line.rsplit(maxsplit=1)[0] for line in lines])
        text = "\ufeff" + "\r\n".join(lines) + "\r\n"
        (tmp_path / f"list_{part}.txt").write_bytes(text.encode())
    return tmp_path


def test_msmt17s_lists_from_any_editor(msmt17):
    protocol = open_reid("msmt17", msmt17, purpose="test")
    assert protocol.train.cameras.tolist() == [0, 1, 0]
    assert protocol.query.identities.tolist() == [2, 3]
    assert matchable(protocol.query, protocol.gallery).all()


def test_msmt17s_listed_images_that_are_not_there(msmt17):
    (msmt17 / "train/0000/0000_000_00_x_0.jpg").unlink()
    (msmt17 / "test/0001/0001_001_01_x_0.jpg").unlink()
    protocol = open_reid("msmt17", msmt17, purpose="train")
    line = protocol.describe()
    assert "train: 1 of 3 listed images is not there, such as" in line
    assert "gallery: 1 of 2 listed images is not there" in line
    with pytest.raises(UserError, match=r"gallery: 1 of 2 listed .* restore"):
        open_reid("msmt17", msmt17, purpose="test")


def test_msmt17_without_training_lists(msmt17):
    (msmt17 / "list_train.txt").unlink()
    with pytest.raises(UserError, match=r"it lacks list_train\.txt"):
        open_reid("msmt17", msmt17)
    (msmt17 / "list_val.txt").unlink()
    assert len(open_reid("msmt17", msmt17, purpose="test").query) == 2
    with pytest.raises(UserError, match=r"nothing to train on: .*list_train\.txt"):
        open_reid("msmt17", msmt17, purpose="train")


@pytest.mark.parametrize("name", ["../list_train_00_1.txt", "/etc/a_b_00_c.jpg"])
def test_msmt17s_lists_stay_in_their_folder(msmt17, name):
    name = name.replace("list_train_00_1", "a_b_00_c")
    with open(msmt17 / "list_query.txt", "a") as file:
        file.write(f"{name} 0\n")
    with pytest.raises(UserError, match=r"list_query\.txt: .* is outside of the folder"):
        open_reid("msmt17", msmt17)
