"""Generated pedestrians: pure functions of their configuration, with honest names and labels."""

import dataclasses
import hashlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from transreid_ssl.data import decode
from transreid_ssl.data.people import (
    PeopleConfig,
    PeoplePool,
    camera_of,
    junk_kind,
    people_protocol,
    render,
    sheet,
)
from transreid_ssl.data.people.figure import draw_figure
from transreid_ssl.data.people.painter import Stance
from transreid_ssl.data.people.wardrobe import dress_person
from transreid_ssl.errors import UserError

SPEC = "demo:identities=12,images=8,cameras=3,junk=0.25,seed=5,height=64,width=32"
DIGEST = """
import hashlib, sys
from transreid_ssl.data.people import PeoplePool
pool = PeoplePool.from_spec(sys.argv[1])
print(hashlib.sha256(b"".join(pool.read(i) for i in range(len(pool) - 1, -1, -1))).hexdigest())
"""


@pytest.fixture(scope="module")
def pool():
    return PeoplePool.from_spec(SPEC)


def test_another_process_draws_the_same_bytes(pool):
    mine = b"".join(pool.read(index) for index in range(len(pool) - 1, -1, -1))
    command = [sys.executable, "-c", DIGEST, SPEC]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert hashlib.sha256(mine).hexdigest() == theirs


def test_an_image_does_not_depend_on_how_many_others_there_are(pool):
    config = pool.config
    larger = dataclasses.replace(config, identities=40)
    shifted = dataclasses.replace(config, first_identity=4)
    np.testing.assert_array_equal(render(config, 7, 2), render(larger, 7, 2))
    index = pool.locate(7 * 8 + 2)
    assert index == (7, 2)
    assert PeoplePool(shifted).read(3 * 8 + 2) == pool.read(7 * 8 + 2)


def test_junk_leaves_the_good_images_as_they_are(pool):
    clean = dataclasses.replace(pool.config, junk=0.0)
    for index in range(len(pool)):
        place = pool.locate(index)
        same = np.array_equal(render(pool.config, *place), render(clean, *place))
        assert same == (junk_kind(pool.config, *place) == "")


def test_every_image_differs_and_has_the_size_asked_for(pool):
    pictures = [render(pool.config, *pool.locate(index)) for index in range(len(pool))]
    assert {picture.shape for picture in pictures} == {(64, 32, 3)}
    assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
    assert len({picture.tobytes() for picture in pictures}) == len(pool)


def test_reading_gives_the_rendered_picture_as_jpeg(pool):
    image = decode(pool.read(1), pool.names[1])
    difference = image.astype(int) - render(pool.config, 0, 1).astype(int)
    assert np.abs(difference).mean() < 6


def test_names_carry_identity_camera_image_and_junk(pool):
    assert len(set(pool.names)) == len(pool) == 96
    for index, name in enumerate(pool.names):
        identity, image = pool.locate(index)
        found = re.fullmatch(r"p(\d{5})_c(\d+)_(\d{4})(_junk)?\.jpg", name)
        assert (int(found[1]), int(found[3])) == (identity, image)
        assert int(found[2]) == camera_of(pool.config, identity, image)
        assert bool(found[4]) == bool(junk_kind(pool.config, identity, image))
    share = np.mean([name.endswith("_junk.jpg") for name in pool.names])
    assert 0.1 < share < 0.4


def test_all_kinds_of_junk_occur():
    config = PeopleConfig(identities=8, junk=0.5)
    kinds = {junk_kind(config, identity, image) for identity in range(8) for image in range(16)}
    assert kinds == {"", "background", "part", "two", "blur"}


def test_specification_and_configuration_are_one_thing(pool):
    assert PeopleConfig.from_spec("demo") == PeopleConfig.from_spec("demo:") == PeopleConfig()
    config = PeopleConfig.from_spec("demo:images=4, style=2,difficulty=hard,first=9,test=3")
    assert (config.images_per_identity, config.style, config.test_identities) == (4, 2, 3)
    assert PeopleConfig.from_spec(config.spec) == config
    assert PeopleConfig.from_spec(pool.source) == pool.config


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("demo:people=3", "keys are identities, images, cameras"),
        ("demo:identities", "keys are identities"),
        ("demo:identities=many", "whole number"),
        ("demo:identities=0", "out of range"),
        ("demo:junk=1.5", "out of range"),
        ("demo:junk=nan", "out of range"),
        ("demo:difficulty=extreme", "easy, moderate, hard"),
        ("people", "not generated people"),
    ],
)
def test_a_wrong_specification_is_one_line_for_the_user(spec, message):
    with pytest.raises(UserError, match=message) as raised:
        PeopleConfig.from_spec(spec)
    assert "\n" not in str(raised.value)


def test_a_pool_survives_pickling_and_tells_seeds_apart(pool):
    copy = pickle.loads(pickle.dumps(pool))
    assert (copy.read(5), list(copy.names)) == (pool.read(5), list(pool.names))
    assert copy.fingerprint == pool.fingerprint
    clean = PeopleConfig.from_spec("demo:identities=2,images=4")
    restyled = dataclasses.replace(clean, style=1)
    assert PeoplePool(clean).fingerprint != PeoplePool(restyled).fingerprint
    assert "generated people" in pool.describe()
    with pytest.raises(IndexError):
        pool.read(len(pool))


def test_protocol_tests_on_people_that_nothing_was_trained_on(pool):
    protocol = people_protocol("demo:identities=10,images=8,cameras=3,junk=0.25,seed=5,test=6")
    train, query, gallery = protocol.train, protocol.query, protocol.gallery
    assert set(train.identities) == set(range(10))
    assert set(query.identities) == set(gallery.identities)
    assert len(set(query.identities)) == 6
    assert not set(query.identities) & set(train.identities)
    assert not any(name.endswith("_junk.jpg") for name in [*train.names, *query.names])
    assert len(query) + len(gallery) == 6 * 8
    assert not set(query.names) & set(gallery.names)
    assert "generated" in protocol.describe()
    assert query.read(0) != gallery.read(0)


def test_each_query_is_the_first_of_its_camera_and_can_be_found_by_another():
    protocol = people_protocol("demo:identities=2,images=6,cameras=5,test=5")
    query, gallery = protocol.query, protocol.gallery
    for name, identity, camera in zip(query.names, query.identities, query.cameras, strict=True):
        mine = gallery.identities == identity
        assert (mine & (gallery.cameras != camera)).any()
        same_camera = [gallery.names[i] for i in np.flatnonzero(mine & (gallery.cameras == camera))]
        assert same_camera
        assert all(name < other for other in same_camera)


@pytest.mark.parametrize("spec", ["demo:images=3", "demo:cameras=1"])
def test_a_protocol_needs_two_images_in_two_cameras(spec):
    with pytest.raises(UserError, match="images=4 and cameras=2"):
        people_protocol(spec)


def _mean_colours(config):
    """Mean colour of an image, float64 (identities, images, 3)."""
    return np.array(
        [
            [render(config, identity, image).mean(axis=(0, 1)) for image in range(6)]
            for identity in range(config.identities)
        ]
    )


def test_colours_change_more_between_identities_than_within():
    colours = _mean_colours(PeopleConfig(identities=24, difficulty="easy", size=(64, 32)))
    within = colours.std(axis=1).mean()
    between = colours.mean(axis=1).std(axis=0).mean()
    assert between > 1.5 * within


def test_styles_are_far_apart_and_harder_means_more_varied_cameras():
    config = PeopleConfig(identities=12, size=(64, 32))
    sunny, dim = (_mean_colours(dataclasses.replace(config, style=style)) for style in (1, 2))
    assert sunny.mean() - dim.mean() > 40  # light
    ratio = [colours[..., 0].mean() / colours[..., 2].mean() for colours in (sunny, dim)]
    assert ratio[0] > 1.2 * ratio[1]  # cast
    night = _mean_colours(dataclasses.replace(config, style=3))
    assert np.ptp(night, axis=-1).max() < 2  # red, green and blue alike
    assert night.mean(axis=(1, 2)).std() > 5  # people still differ
    spreads = [
        _mean_colours(dataclasses.replace(config, difficulty=difficulty)).std(axis=1).mean()
        for difficulty in ("easy", "moderate", "hard")
    ]
    assert spreads[0] < spreads[1] < spreads[2]


def _figure(yaw, **changes):
    person = dataclasses.replace(dress_person(np.random.default_rng(3)), **changes)
    stance = Stance(yaw=yaw, phase=0.0, stride=0.3, foot=(32.0, 124.0), height=116.0)
    return draw_figure(person, stance, (128, 64))


def _share_of(layer, colour):
    return (np.abs(layer[..., :3] - np.array(colour)).max(axis=2) < 12).mean()


def test_the_view_decides_what_is_seen():
    green, magenta = (10, 240, 10), (240, 10, 240)
    looks = {"bag_kind": "backpack", "bag": green, "skin": magenta, "hair_style": "short"}
    front, back = (_figure(yaw, top_kind="jacket", **looks) for yaw in (0.0, np.pi))
    assert _share_of(back, green) > 5 * _share_of(front, green)
    assert _share_of(front[:32], magenta) > 5 * _share_of(back[:32], magenta)
    side = _figure(np.pi / 2, **looks)
    breadth = [(layer[40:60, :, 3] > 0.5).any(axis=0).sum() for layer in (front, side)]
    assert breadth[0] > breadth[1]


def test_a_figure_stays_inside_its_box_and_is_smooth():
    layer = _figure(0.0)
    assert layer[..., 3].min() == 0
    assert layer[..., 3].max() == 1
    assert ((layer[..., 3] > 0) & (layer[..., 3] < 1)).any()
    rows = np.flatnonzero(layer[..., 3].max(axis=1))
    assert 4 <= rows[0] <= 12
    assert 120 <= rows[-1] <= 127


def test_sheet_holds_one_identity_a_row():
    config = PeopleConfig(identities=3, size=(64, 32))
    canvas = sheet(config, identities=[1, 2], columns=4, border=2)
    assert canvas.shape == (2 * 66 + 2, 4 * 34 + 2, 3)
    np.testing.assert_array_equal(canvas[68:132, 36:68], render(config, 2, 1))
    assert sheet(config).shape == (3 * 66 + 2, 16 * 34 + 2, 3)


def test_a_pool_knows_who_is_on_its_images_and_on_which_nobody_sound_is():
    pool = PeoplePool.from_spec("demo:identities=6,images=10,junk=0.3,height=32,width=16")
    images = pool.labelled()
    for name, identity, camera in zip(pool.names, images.identities, images.cameras):
        person, place, _ = name.split("_", 2)
        assert camera == int(place[1:])
        assert identity == (-1 if name.endswith("_junk.jpg") else int(person[1:]))
    assert 0 < (images.identities < 0).sum() < len(pool)
