"""Any network of timm as a backbone: built, kept, read again, exported, refused."""

import json

import pytest
import safetensors.torch
import timm
import torch
from torch.nn import functional as F

from transreid_ssl import UserError, export
from transreid_ssl.models import (
    HALF,
    BackboneSpec,
    build_backbone,
    checkpoints,
    load_backbone,
    load_weights,
    normalise,
    read_spec,
    save_backbone,
)
from transreid_ssl.models.raw import HEADER, read_safetensors

IMAGES = torch.arange(2 * 3 * 64 * 32).mul(7).remainder(256).to(torch.uint8).view(2, 3, 64, 32)


@pytest.mark.parametrize(
    ("name", "dim", "grid"),
    [("test_resnet", 96, (2, 1)), ("test_vit", 64, (4, 2)), ("test_convnext", 64, (2, 1))],
)
def test_it_computes_what_timm_does_and_comes_back_from_its_file(tmp_path, name, dim, grid):
    statistics = {"mean": HALF.mean, "std": HALF.std}
    model = build_backbone(f"timm:{name}", img_size=(64, 32), **statistics).eval()
    features, last = model.forward_with_map(IMAGES)
    torch.testing.assert_close(features, model.net(normalise(IMAGES, *HALF)))
    assert (features.shape, model.spec.embed_dim, model.spec.grid) == ((2, dim), dim, grid)
    assert last.shape == (2, model.spec.architecture.map_dim, *grid)
    save_backbone(tmp_path / "net.safetensors", model)
    found = load_backbone(tmp_path / "net.safetensors")
    assert found.spec == model.spec
    assert torch.equal(found(IMAGES), model(IMAGES))
    # A network for a size has positions of that size; a convolutional one takes any.
    if name == "test_resnet":
        assert load_backbone(tmp_path / "net.safetensors", img_size=(96, 32)).spec.grid == (3, 1)


def test_files_of_timm_are_loaded_without_their_classifier(tmp_path):
    plain = timm.create_model("test_resnet", num_classes=7)
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "t.safetensors")
    model = build_backbone("timm:test_resnet", img_size=(64, 32)).eval()
    report = load_weights(model, tmp_path / "t.safetensors")
    assert sorted(report.dropped) == ["fc.bias", "fc.weight"]
    wrapped = {f"module.{name}": value for name, value in plain.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "t.pth")
    again = load_weights(build_backbone("timm:test_resnet"), tmp_path / "t.pth")
    assert set(again.dropped) == {"module.fc.bias", "module.fc.weight", "epoch"}
    plain.reset_classifier(0)
    expected = plain.eval()(normalise(IMAGES, model.spec.mean, model.spec.std))
    torch.testing.assert_close(model(IMAGES), expected)
    other = build_backbone("timm:test_convnext", img_size=(64, 32))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(UserError, match="lacks weights of the network"):
        load_weights(other, tmp_path / "t.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    extra = plain.state_dict() | {"layer9.weight": torch.ones(2)}
    torch.save(extra, tmp_path / "extra.pth")
    with pytest.raises(UserError, match="no place for"):
        load_weights(model, tmp_path / "extra.pth")


def test_a_file_is_read_once(tmp_path, monkeypatch):
    model = build_backbone("timm:test_resnet")
    save_backbone(tmp_path / "a.safetensors", model)
    reads = []
    monkeypatch.setattr(
        checkpoints, "read_safetensors", lambda path: reads.append(path) or read_safetensors(path)
    )
    load_weights(model, tmp_path / "a.safetensors")
    assert len(reads) == 1


def test_weights_of_other_networks_are_refused(tmp_path):
    save_backbone(tmp_path / "a.safetensors", build_backbone("timm:test_resnet"))
    save_backbone(tmp_path / "b.safetensors", build_backbone("vit_nano_patch8_reid"))
    with pytest.raises(UserError, match=r"timm's test_resnet, but .* width 128.*timm:test_resnet"):
        load_weights(build_backbone("vit_nano_patch8_reid"), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"width 128.* but this network has timm's test_resnet"):
        load_weights(build_backbone("timm:test_resnet"), tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "timm:resnet_18"}, r"none of this name; did you mean timm:resnet18"),
        ({"name": "timm:hf-hub:somebody/net"}, "none of this name"),
        ({"name": "timm:../../net"}, "none of this name"),
        (
            {"name": "timm:test_resnet", "stride": 16},
            "stride 16: that of timm:test_resnet is fixed",
        ),
        ({"name": "timm:test_resnet", "gem": True}, "pools in its own way"),
        ({"name": "timm:test_resnet", "jpm": True}, "no tokens to shuffle"),
        ({"name": "timm:test_resnet", "num_cameras": 2}, "no tokens to add them to"),
        ({"name": "timm:test_vit", "img_size": (8, 8)}, "8x8"),
    ],
)
def test_what_cannot_be_is_refused(options, complaint):
    with pytest.raises(UserError, match=complaint):
        BackboneSpec(**options)


def test_a_header_calls_for_no_download(tmp_path, monkeypatch):
    model = build_backbone("timm:test_resnet")
    header = json.loads(model.spec.to_json()) | {"name": "timm:hf-hub:somebody/net"}
    metadata = {HEADER: json.dumps(header)}
    safetensors.torch.save_file(model.state_dict(), tmp_path / "n.safetensors", metadata)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("it was asked for"))
    with pytest.raises(UserError, match=r"n\.safetensors: its header cannot be read"):
        read_spec(tmp_path / "n.safetensors")


def test_an_exported_program_gives_the_same_features(tmp_path):
    model = build_backbone("timm:test_resnet", img_size=(64, 32)).eval()
    save_backbone(tmp_path / "n.safetensors", model)
    export.export(tmp_path / "n.safetensors", tmp_path / "n.pt2")
    program = torch.export.load(tmp_path / "n.pt2").module()
    for images in (IMAGES, IMAGES[:1]):
        torch.testing.assert_close(program(images), F.normalize(model(images), dim=1))
