"""Weights of ResNets: LUPerson's in the formats that they are published in, and ImageNet's."""

import numpy as np
import pytest
import safetensors.torch
import torch

from layouts import prefixed
from transreid_ssl import UserError
from transreid_ssl.models import (
    IMAGENET,
    LUPERSON,
    build_backbone,
    load_backbone,
    load_weights,
    read_spec,
)
from transreid_ssl.models.checkpoints import PLAIN_RESNET, Checkpoint
from transreid_ssl.models.detect import detect_spec

NANO = {"name": "resnet_nano_reid", "img_size": (64, 32)}


def classifier(classes, prefix="fc."):
    return {f"{prefix}weight": torch.zeros(classes, 128), f"{prefix}bias": torch.zeros(classes)}


def moco_snapshot(query, key):
    """What LUPerson's MoCo training writes: two encoders with heads, the queue, the optimiser."""
    head = {f"fc.{i}.{end}": torch.zeros(8) for i in (0, 2) for end in ("weight", "bias")}
    state = prefixed("module.encoder_q.", query | head) | prefixed("module.encoder_k.", key | head)
    state |= {"module.queue": torch.zeros(8, 64), "module.queue_ptr": torch.zeros(1)}
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(0.3), "params": [0]}]},
    }


@pytest.fixture
def backbone():
    return build_backbone(**NANO).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 32)


def test_a_moco_snapshot_gives_its_query_encoder(tmp_path, backbone, images):
    key = build_backbone(**NANO).state_dict()
    torch.save(moco_snapshot(backbone.state_dict(), key), tmp_path / "lup_moco.pth")
    model = load_backbone(tmp_path / "lup_moco.pth")
    assert torch.equal(model(images), backbone(images))
    assert (model.spec.mean, model.spec.std, model.spec.objective) == (*LUPERSON, "moco")
    assert (model.spec.stride, model.spec.img_size) == (32, (256, 128))
    said = set(model.load_report.dropped)
    assert {"module.queue", "module.encoder_q.fc.0.weight", "optimizer", "epoch"} < said
    assert len(said & set(prefixed("module.encoder_k.", key))) == len(key)
    assert "MoCo training checkpoint" in str(model.load_report)


@pytest.mark.parametrize(
    ("content", "statistics", "kind"),
    [
        (lambda s: s, LUPERSON, "ResNet without a classifier"),
        (lambda s: {"state_dict": prefixed("module.", s)}, LUPERSON, "ResNet without"),
        (lambda s: s | classifier(128), LUPERSON, "ResNet without"),
        (lambda s: s | classifier(1000), IMAGENET, "ImageNet ResNet"),
        (lambda s: {"state_dict": prefixed("module.", s | classifier(1000))}, IMAGENET, "ImageN"),
    ],
)
def test_plain_files(tmp_path, backbone, images, content, statistics, kind):
    torch.save(content(backbone.state_dict()), tmp_path / "resnet.pth")
    model = load_backbone(tmp_path / "resnet.pth")
    assert torch.equal(model(images), backbone(images))
    assert (model.spec.mean, model.spec.std) == statistics
    assert kind in model.load_report.format
    assert all("fc." in name for name in model.load_report.dropped)


def test_timm_safetensors_with_their_classifier(tmp_path, backbone):
    safetensors.torch.save_file(
        backbone.state_dict() | classifier(1000), tmp_path / "m.safetensors"
    )
    model = load_backbone(tmp_path / "m.safetensors", stride=16, gem=True)
    assert (model.spec.mean, model.spec.stride, model.spec.objective) == (
        IMAGENET.mean, 16, "imagenet",
    )  # fmt: skip
    assert torch.equal(model.layer4[0].conv1.weight, backbone.layer4[0].conv1.weight)


@pytest.mark.parametrize("told", [True, False])
def test_a_fast_reid_network_tells_its_statistics(tmp_path, backbone, told):
    state = prefixed("backbone.", backbone.state_dict()) | classifier(751, "heads.classifier.")
    state |= {"heads.bottleneck.0.weight": torch.ones(128)}
    if told:
        values = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])  # ImageNet's, times 255
        for name, value in zip(("pixel_mean", "pixel_std"), values):
            state[name] = torch.tensor(value).view(1, 3, 1, 1)
    torch.save({"model": state, "iteration": 9}, tmp_path / "model_best.pth")
    model = load_backbone(tmp_path / "model_best.pth")
    expected = IMAGENET if told else LUPERSON
    assert model.spec.mean == pytest.approx(expected.mean, abs=1e-7)
    assert model.spec.std == pytest.approx(expected.std, abs=1e-7)
    assert (model.spec.stride, model.load_report.format) == (16, "fast-reid network")
    assert {"heads.bottleneck.0.weight", "heads.classifier.bias"} < set(model.load_report.dropped)


def test_files_of_early_pytorch_have_no_counters(tmp_path, backbone, images):
    state = {k: v for k, v in backbone.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "resnet50-19c8e357.pth")
    model = build_backbone(**NANO).eval()
    report = load_weights(model, tmp_path / "resnet50-19c8e357.pth")
    assert torch.equal(model(images), backbone(images))
    assert all(name.endswith("num_batches_tracked") for name in report.missing)


@pytest.mark.parametrize(
    "name",
    ["resnet50_reid", "resnet101_ibn_reid", "mgn_resnet50_ibn", "mgn_resnet50_luperson",
     "mgn_resnet101_luperson", "mgn_resnet50_ibn_luperson"],
)  # fmt: skip
def test_networks_are_recognised_by_their_shapes(tmp_path, name):
    with torch.device("meta"):
        state = build_backbone(name).state_dict()
    assert detect_spec(Checkpoint(tmp_path / "x.pth", PLAIN_RESNET, state)).name == name


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s.pop("layer2.0.conv2.weight"), r"lacks weights .*layer2.0.conv2.weight"),
        (lambda s: s.update({"layer1.0.se.fc1.weight": torch.ones(2)}), "no place for"),
        (lambda s: s.update({"NL_2.0.g.weight": torch.ones(2)}), "no place for"),
        (lambda s: s.update({"layer1.0.conv2.weight": torch.ones(2)}), "of other shapes"),
        (lambda s: s.update({"layer2.5.conv1.weight": torch.ones(2)}), r"1-6-2-1 basic blocks"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("layer4")], "lacks stages"),
    ],
)
def test_what_would_change_the_computation_is_an_error(tmp_path, backbone, change, complaint):
    state = backbone.state_dict()
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=complaint) as caught:
        load_weights(backbone, tmp_path / "x.pth")
    assert str(tmp_path / "x.pth") in str(caught.value)


def test_another_family_is_refused_with_both_sizes(tmp_path, backbone):
    torch.save(backbone.state_dict(), tmp_path / "r.pth")
    vit = build_backbone("vit_nano_patch8_reid", img_size=(64, 32))
    with pytest.raises(UserError, match=r"basic blocks.*width 128.*build resnet_nano_reid"):
        load_weights(vit, tmp_path / "r.pth")
    torch.save(vit.state_dict(), tmp_path / "v.pth")
    with pytest.raises(UserError, match=r"width 128.*basic blocks.*build vit_nano_patch8_reid"):
        load_weights(backbone, tmp_path / "v.pth")
    assert read_spec(tmp_path / "r.pth").name == "resnet_nano_reid"
