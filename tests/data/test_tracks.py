"""Track files of every format, the boxes that are left out, and names that tell a track."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damage import damaged, outcome
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.tracks import CropRules, crops_of_pool, find_videos
from transreid_ssl.data.tracks.choice import Screening, choose_boxes
from transreid_ssl.data.tracks.formats import read_boxes
from transreid_ssl.data.tracks.pool import LAYOUTS, describe_left_out, layout_of
from transreid_ssl.errors import UserError

SIZE = (200, 400)  # height and width of the frames
ALL = CropRules(every=1, max_overlap=1.0, min_height=1)
# One person in two frames, box (top 20, left 10, height 80, width 40), score 0.5.
FILES = {
    "mot": ("v.txt", "1,7,10,20,40,80,0.5,-1,-1,-1\n2,7,10,20,40,80,0.5,-1,-1,-1\n"),
    "mot with spaces": (
        "v.txt",
        "1 7 10 20 40 80 0.5 -1 -1 -1 3\n"[:-3] + "\n2 7 10 20 40 80 .5\n",
    ),
    "boxmot": ("v.txt", "1,7,10,20,40,80,0.500000,1,0\n2,7,10,20,40,80,0.500000,1,3\n"),
    "supervision": (
        "v.csv",
        "x_min,y_min,x_max,y_max,class_id,confidence,tracker_id,class_name,frame_index\n"
        "10.0,20.0,50.0,100.0,0,0.5,7,person,0\r\n10,20,50,100,0,0.5,7,person,1\n",
    ),
}


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("kind", FILES)
def test_each_format_says_the_same_of_the_same_boxes(kind, tmp_path):
    boxes = read_boxes(write(tmp_path, *FILES[kind]), None, "v", SIZE)
    assert (boxes.frames - boxes.first).tolist() == [0, 1]
    assert boxes.tracks.tolist() == [7, 7]
    assert boxes.boxes.tolist() == [[20, 10, 80, 40]] * 2
    assert boxes.scores.tolist() == [0.5, 0.5]
    assert len(choose_boxes(boxes, SIZE, ALL)[0]) == 2


def test_label_files_of_ultralytics(tmp_path):
    box = "0.075 0.3 0.1 0.4"  # centre, width, height, as shares
    write(tmp_path, "v_1.txt", f"0 {box} 0.5 7\n0 {box} 8\n0 {box}\n0 {box} 0.5\n")
    write(tmp_path, "v_12.txt", f"2 {box} 0.5 9\n")
    write(tmp_path, "v_2_1.txt", "of another video")
    boxes = read_boxes(tmp_path, None, "v", SIZE)
    assert boxes.frames.tolist() == [1, 1, 1, 1, 12]
    assert boxes.tracks.tolist() == [7, 8, -1, -1, 9]
    assert np.allclose(boxes.boxes, [20, 10, 80, 40])
    np.testing.assert_array_equal(boxes.scores, [0.5, np.nan, np.nan, 0.5, 0.5])
    chosen, reasons = choose_boxes(boxes, SIZE, ALL)
    assert chosen.tolist() == [0, 1]
    assert +reasons == Counter({"of no track": 2, "not a person": 1})


def test_what_people_annotated(tmp_path):
    lines = ["1,1,9,9,9,9,1,1,1.0", "1,2,60,9,9,9,0,1,0.5", "1,3,90,9,9,9,1,8,0.25"]
    boxes = read_boxes(write(tmp_path, "gt.txt", "\n".join(lines)), None, "gt", SIZE)
    chosen, reasons = choose_boxes(boxes, SIZE, ALL)
    assert chosen.tolist() == [0]
    assert +reasons == Counter({"marked as not to be looked at": 1, "not a person": 1})
    chosen, _ = choose_boxes(boxes, SIZE, ALL, persons=(8,))
    assert chosen.tolist() == [2]
    # A tracker that wrote whole numbers has 0 for every confidence, and means nothing by it.
    boxes = read_boxes(write(tmp_path, "old.txt", "1,1,9,9,9,9,0,1,-1\n"), None, "old", SIZE)
    assert len(choose_boxes(boxes, SIZE, ALL)[0]) == 1


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("v.txt", "1,1,9,9,9,9\n\n1,1,9,9,9\n", r"v\.txt: line 3 is not frame,id,left"),
        (
            "v.txt",
            "1,1,9,9,9,9\n1,1,9,9,9,x\n",
            r"v\.txt: line 2 is not all numbers: '1,1,9,9,9,x'",
        ),
        ("v.txt", "1.5,1,9,9,9,9\n", r"line 1 is not a frame that is a whole number"),
        ("v.txt", "1,1e300,9,9,9,9\n", r"line 1 is not a track that is a whole number"),
        ("v.txt", "<xml>\n", r"v\.txt: line 1 is not of a known track file"),
        ("v.txt", "1\0", r"v\.txt: is not UTF-8 text"),
        ("v.csv", "x_min,y_min\n1,2\n", r"v\.csv: lacks x_max, y_max, class_id, confidence, tr"),
        ("v.csv", FILES["supervision"][1].replace("_index", ""), None),
        ("v.csv", FILES["supervision"][1].replace("_index", "s"), r"lacks a column of frames"),
        ("v.csv", FILES["supervision"][1] + "1,2\n", r"line 4 is not of 9 columns"),
        ("labels/v_1.txt", "0 .5 .5 .1 .1 .1 .1 .1\n", r"v_1\.txt: line 1 is not class x y width"),
    ],
)
def test_a_malformed_line_is_named(name, text, said, tmp_path):
    path = write(tmp_path, name, text)
    path = path.parent if path.parent != tmp_path else path
    if said is None:
        assert len(read_boxes(path, None, "v", SIZE)) == 2
        return
    with pytest.raises(UserError, match=said):
        read_boxes(path, None, "v", SIZE)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(FILES)),
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_no_damaged_file_ends_otherwise_than_in_boxes_or_one_line(kind, places, tmp_path_factory):
    name, text = FILES[kind]
    path = tmp_path_factory.mktemp("tracks") / name
    path.write_bytes(damaged(text.encode(), places))
    boxes = outcome(lambda: read_boxes(path, None, "v", SIZE))
    if not isinstance(boxes, UserError):
        chosen, reasons = choose_boxes(boxes, SIZE, CropRules(min_height=1, keep_truncated=True))
        assert len(chosen) + reasons.total() == len(boxes)


def test_each_reason_to_leave_a_box_out_is_counted(tmp_path):
    lines = [
        "1,1,10,20,40,80,0.9",  # stays
        "1,2,nan,20,40,80,0.9",
        "1,3,10,20,-40,80,0.9",
        "1,4,100,20,0,80,0.9",
        "1,5,100,20,inf,80,0.9",
        "1,-1,150,20,40,80,0.9",
        "0,6,10,20,40,80,0.9",  # the first frame is 1
        "1,7,200,20,40,80,0.1",
        "1,8,500,20,40,80,0.9",
        "1,9,250,20,20,40,0.9",
        "1,10,-5,20,40,80,0.9",
        "1,11,300,100,40,100,0.9",  # ends with the last row
        "1,12,15,30,30,60,0.9",  # within the first
        "1,1,10,21,40,80,0.9",
        "3,1,10,20,40,80,0.9",
        "4,1,10,20,40,80,0.9",  # stays
    ]
    boxes = read_boxes(write(tmp_path, "v.txt", "\n".join(lines)), "mot", "v", SIZE)
    rules = CropRules(min_height=50, min_score=0.3, max_overlap=0.99, every=3)
    chosen, reasons = choose_boxes(boxes, SIZE, rules)
    assert chosen.tolist() == [0, 15]
    assert +reasons == Counter(
        {
            "no box (NaN, too large, or of no size)": 4,
            "of no track": 1,
            "before the first frame": 1,
            "of a low score": 1,
            "outside of the frame": 1,
            "too low": 1,
            "cut by the border of the frame": 2,
            "a track's second box in a frame": 1,
            "overlapped by another": 1,
            "soon after the one before": 1,
        }
    )
    assert len(chosen) + reasons.total() == len(boxes)


def test_what_is_seen_in_a_crop():
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 255, (60, 30, 3), np.uint8)
    other = 255 - sharp
    screening = Screening(CropRules())
    said = [
        screening.complaint(image, track)
        for image, track in [
            (sharp, 0),
            (sharp, 0),
            (sharp, 1),
            (other, 0),
            (np.full_like(sharp, 90), 0),
            (sharp[:40], 2),
        ]
    ]
    assert said == [None, "a near-duplicate", None, None, "blurred", "too low"]


NAMES = {
    "market1501": ["0002_c1s1_000451_03.jpg", "0002_c1s2_000451_03.jpg", "0007_c1s1_000451_01.jpg"],
    "mars": ["0001C1T0001F001.jpg", "0001C1T0002F001.jpg", "0002C1T0001F001.jpg"],
    "luperson-nl": [
        "a/x/000003_0000125_02.jpg",
        "a/y/000003_0000125_02.jpg",
        "00017_000003_0000125_02",
    ],
}


@pytest.mark.parametrize("layout", NAMES)
def test_names_of_published_sets(layout, tmp_path, write_images):
    names = [name if name.endswith(".jpg") else f"{name}.jpg" for name in NAMES[layout]]
    pool = open_pool(write_images(tmp_path, names))
    assert layout_of(pool) == layout
    if layout == "market1501":
        write_images(tmp_path, ["0000_c1s1_000451_02.jpg", "-1_c1s1_000451_02.jpg"])
        pool = open_pool(tmp_path)
    crops, left_out = crops_of_pool(pool, LAYOUTS[layout], CropRules(every=1))
    assert len(set(crops.tracks.tracks)) == 3, "no two of these are of one track"
    assert left_out["of no track, by its name"] == len(pool) - 3
    together = crops.tracks.videos
    assert len(set(together)) == (2 if layout == "market1501" else 3)


def test_a_pattern_of_ones_own(tmp_path, write_images):
    names = [f"cam{c}_track{t}_{f:03d}.jpg" for c in (1, 2) for t in (3, 4) for f in (0, 5, 8, 10)]
    pool = open_pool(write_images(tmp_path, names))
    assert layout_of(pool) is None
    pattern = r"cam(?P<camera>\d+)_track(?P<track>\d+)_(?P<frame>\d+)"
    crops, left_out = crops_of_pool(pool, pattern, CropRules(every=5))
    assert crops.tracks.describe() == ("2 cameras, 2 videos, 4 tracks of 3 to 3 images (median 3)")
    assert crops.tracks.frames.tolist() == [0, 5, 10] * 4
    assert left_out["soon after the one before"] == 4
    for wrong, said in [
        ("(", "not a regular"),
        ("x", "lacks the group"),
        (f"z{pattern}", "no name"),
    ]:
        with pytest.raises(UserError, match=said):
            crops_of_pool(pool, wrong, CropRules())


def test_videos_and_their_tracks_are_found(tmp_path, write_images):
    write_images(tmp_path / "MOT/A/img1", ["000001.jpg"])
    write(tmp_path, "MOT/A/gt/gt.txt", "")
    for name in (
        "b.mp4",
        "sub/c.avi",
        "sub/labels/c_3.txt",
        "b.csv",
        "lonely.mkv",
        "d.AVI",
        "d.txt",
    ):
        write(tmp_path, name, "")
    videos, notes = find_videos([tmp_path], None)
    assert [(video.name, str(video.tracks.relative_to(tmp_path))) for video in videos] == [
        ("MOT/A", "MOT/A/gt/gt.txt"), ("b", "b.csv"), ("d", "d.txt"), ("sub/c", "sub/labels"),
    ]  # fmt: skip
    assert notes == [f"left out for want of tracks: {tmp_path / 'lonely.mkv'}"]
    write(tmp_path, "results/A.txt", "")
    videos, _ = find_videos([tmp_path / "MOT"], tmp_path / "results")
    assert [video.tracks.name for video in videos] == ["A.txt"]
    with pytest.raises(UserError, match=r"lonely\.mkv: no tracks of this video; looked for"):
        find_videos([tmp_path / "lonely.mkv"], None)
    write(tmp_path, "sub/b.mp4", "")
    with pytest.raises(UserError, match="b: two videos of this name"):
        find_videos([tmp_path / "b.mp4", tmp_path / "sub/b.mp4"], None)


def test_reasons_read_right_of_one_and_of_many():
    assert describe_left_out(Counter()) == "none"
    reasons = Counter({"a near-duplicate": 13, "blurred": 2, "not a person": 1})
    assert describe_left_out(reasons) == "13 near-duplicates, 2 blurred, 1 not a person"
    reasons = Counter({"a near-duplicate": 1, "a track's second box in a frame": 2000})
    assert describe_left_out(reasons) == (
        "2,000 second boxes of a track in a frame, 1 near-duplicate"
    )
