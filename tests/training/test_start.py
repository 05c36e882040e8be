"""What the settings of a network become, and which images a run leaves out."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from transreid_ssl import UserError
from transreid_ssl.data import open_pool
from transreid_ssl.training import BackboneSettings, RunFolder, training_pool
from transreid_ssl.training.start import build_backbone_to_train

QUIET = SimpleNamespace(
    print=lambda *lines, **options: None, num_processes=1, is_main_process=True,
    is_local_main_process=True,
)  # fmt: skip
NANO = {"name": "vit_nano_patch8_reid", "img_size": (32, 16)}


def built(num_cameras=0, **settings):
    return build_backbone_to_train(BackboneSettings(**NANO, **settings), QUIET, num_cameras).spec


def test_settings_of_the_network_reach_it():
    assert built().position_resampling == "antialias"
    for mode in ("dino", "bilinear"):
        assert built(position_resampling=mode).position_resampling == mode
    assert (built().num_cameras, built().camera_weight) == (0, 3.0)
    spec = built(num_cameras=5, camera_embedding=True, camera_weight=1.5)
    assert (spec.num_cameras, spec.camera_weight) == (5, 1.5)
    assert (built().jpm, built(jpm=True).embed_dim) == (False, 640)
    assert (built(stride=4).grid, built(gem=True).gem) == ((7, 3), True)


def test_a_run_goes_on_with_the_images_that_it_began_with(tmp_path):
    crops = tmp_path / "crops"
    crops.mkdir()
    for number in range(5):
        cv2.imwrite(str(crops / f"{number}.png"), np.full((32, 16, 3), 40 * number, np.uint8))
    whole = (crops / "2.png").read_bytes()
    (crops / "2.png").write_bytes(whole[:40])
    run = RunFolder(tmp_path / "run")
    assert len(training_pool(open_pool(str(crops)), 0.5, run, QUIET)) == 4
    run.save(1, {}, keep=1)
    (crops / "2.png").write_bytes(whole)  # can be read again, and is still left out
    assert len(training_pool(open_pool(str(crops)), 0.5, run, QUIET)) == 4
    (run.path / "left_out.json").unlink()
    with pytest.raises(UserError, match=r"left_out\.json: is missing, .*--run\.overwrite true"):
        training_pool(open_pool(str(crops)), 0.5, run, QUIET)
