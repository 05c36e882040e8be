"""What the settings of a network become."""

from types import SimpleNamespace

from transreid_ssl.training import BackboneSettings
from transreid_ssl.training.start import build_backbone_to_train

QUIET = SimpleNamespace(print=lambda *lines, **options: None)
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
