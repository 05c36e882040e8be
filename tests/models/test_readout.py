"""Features of stripes, whitened: in the network, in its file, and for those who train from it."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from transreid_ssl import UserError
from transreid_ssl.models import (
    Readout,
    ReIDViT,
    build_backbone,
    from_spec,
    load_backbone,
    load_weights,
    read_spec,
    save_backbone,
)
from transreid_ssl.models.readout import mean_of_stripes

IMAGES = torch.randint(0, 256, (3, 3, 32, 16), dtype=torch.uint8)


def network(name="vit_nano_patch8_reid", **options):
    torch.manual_seed(0)
    return build_backbone(name, img_size=(32, 16), **options).eval()


def with_readout(plain, readout):
    """The same network, whitened by made-up numbers."""
    found = from_spec(plain.spec.changed(readout=readout)).eval()
    own = {k: v for k, v in found.state_dict().items() if k.startswith("readout.")}
    drawn = {
        k: torch.randn(v.shape, generator=torch.Generator().manual_seed(1)) for k, v in own.items()
    }
    found.load_state_dict(plain.state_dict() | drawn)
    return found


@pytest.mark.parametrize("height", [4, 5, 8, 16, 21])
@pytest.mark.parametrize("parts", [1, 3, 4])
def test_stripes_are_those_of_adaptive_pooling(height, parts):
    maps = torch.randn(2, 5, height, 3)
    expected = F.adaptive_avg_pool2d(maps, (parts, 1))[..., 0]
    torch.testing.assert_close(mean_of_stripes(maps, parts), expected)


def test_the_feature_is_of_stripes_from_top_to_bottom_and_whitened():
    plain = network()
    with torch.no_grad():
        tokens = plain.forward_features(IMAGES)[:, 1:].unflatten(1, (4, 2))
        halves = F.normalize(tokens.unflatten(1, (2, 2)).mean((2, 3)), dim=-1)  # (B, 2, D)
        joined = F.normalize(halves.mT.flatten(1), dim=1)
        read = with_readout(plain, Readout(parts=2, dim=20))
        expected = (joined - read.readout.mean) @ read.readout.matrix
        torch.testing.assert_close(read(IMAGES), expected)
        torch.testing.assert_close(with_readout(plain, Readout(parts=2))(IMAGES), joined)
        both = torch.cat([F.normalize(plain(IMAGES), dim=1), joined], dim=1) / 2**0.5
        torch.testing.assert_close(with_readout(plain, Readout(2, own=True))(IMAGES), both)
        own = with_readout(plain, Readout(dim=6))
        expected = (F.normalize(plain(IMAGES), dim=1) - own.readout.mean) @ own.readout.matrix
        torch.testing.assert_close(own(IMAGES), expected)
    assert (read.spec.embed_dim, read.spec.own_dim, own.spec.embed_dim) == (20, 128, 6)
    assert isinstance(read, ReIDViT)
    assert str(read.spec).endswith("2 stripes whitened to 20 values")


@pytest.mark.parametrize("name", ["resnet_nano_reid", "timm:resnet18", "vit_nano_patch8_pass"])
def test_every_network_with_a_map_can_be_read_so(name, tmp_path):
    plain = network(name)
    read = with_readout(plain, Readout(parts=1, dim=5))
    assert read(IMAGES).shape == (3, 5)
    save_backbone(tmp_path / "net.safetensors", read)
    torch.testing.assert_close(load_backbone(tmp_path / "net.safetensors")(IMAGES), read(IMAGES))


def test_the_file_holds_it_and_what_is_trained_from_it_is_the_network(tmp_path):
    plain, path = network(), tmp_path / "net.safetensors"
    read = with_readout(plain, Readout(2, 20, False, 0.25, "30 images: crops"))
    save_backbone(path, read)
    assert read_spec(path).readout == Readout(2, 20, False, 0.25, "30 images: crops")
    again = load_backbone(path)
    torch.testing.assert_close(again(IMAGES), read(IMAGES))
    torch.testing.assert_close(load_backbone(path, readout=None)(IMAGES), plain(IMAGES))
    fresh = build_backbone("vit_nano_patch8_reid", img_size=(32, 16)).eval()
    report = load_weights(fresh, path)
    assert set(report.dropped) == {"readout.mean", "readout.matrix"}
    torch.testing.assert_close(fresh(IMAGES), plain(IMAGES))
    save_backbone(tmp_path / "plain.safetensors", plain)
    assert b"readout" not in (tmp_path / "plain.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"lacks weights of the network \(readout\.mean"):
        load_backbone(tmp_path / "plain.safetensors", readout=Readout(2, 20))


def test_other_features_have_another_calibration():
    spec = replace(network().spec, calibration={"slope": 1.0, "intercept": 0.0})
    assert spec.changed(readout=Readout(2)).calibration is None


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"parts": -1}, "is none; whiten the weights again"),
        ({}, "is none; whiten the weights again"),
        ({"dim": "8"}, "is none; whiten the weights again"),
        ({"rows": 2}, "is none; whiten the weights again"),
        ({"dim": 10**9}, "is none; whiten the weights again"),
        ({"parts": 5}, "has 4 rows; give 4 or fewer"),
        ({"parts": 1, "dim": 129}, "128 values cannot become more; give fewer"),
    ],
)
def test_readouts_that_cannot_be_are_refused(value, complaint):
    with pytest.raises(UserError, match=complaint):
        replace(network().spec, readout=value)


def test_what_has_parts_already_is_not_read_otherwise():
    with pytest.raises(UserError, match="its feature is of parts already"):
        build_backbone("mgn_resnet_nano", img_size=(64, 32), readout=Readout(2))
