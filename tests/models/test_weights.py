"""Weights: ours and the published formats, and what is said of every weight."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm.data
import torch
from PIL import Image
from torch import nn

import transreid_ssl
from layouts import prefixed
from published import shapes
from transreid_ssl import UserError
from transreid_ssl.models import (
    ARCHITECTURES,
    HALF,
    IMAGENET,
    BackboneSpec,
    DINOHead,
    build_backbone,
    load_backbone,
    load_weights,
    read_spec,
    resample_positions,
    save_backbone,
)
from transreid_ssl.models.detect import detect_name, detect_size, detect_spec
from transreid_ssl.models.hub import find_weights

NANO = {"name": "vit_nano_patch8_ics", "img_size": (64, 32)}
PLAIN = {"name": "vit_nano_patch8_reid", "img_size": (64, 32)}


def neck(classes=5):
    bottleneck = nn.BatchNorm1d(128)
    nn.init.normal_(bottleneck.weight)
    state = prefixed("bottleneck.", bottleneck.state_dict())
    return state | {"classifier.weight": torch.randn(classes, 128)}


def training_checkpoint(student, teacher):
    head = prefixed("head.", DINOHead(128, 64, hidden_dim=16, bottleneck_dim=8).state_dict())
    return {
        "student": prefixed("module.backbone.", student) | prefixed("module.", head),
        "teacher": prefixed("backbone.", teacher) | head,
        "optimizer": {"param_groups": [{"lr": np.float64(1e-3), "params": [0]}], "state": {}},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=np.float32(0.1), seed=np.int64(0)),
        "dino_loss": {"center": torch.zeros(1, 64)},
        "fp16_scaler": {"scale": 65536.0},
    }


@pytest.fixture
def backbone():
    return build_backbone(**NANO).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 32)


def test_saved_and_loaded_features_are_equal(tmp_path, images):
    provenance = {"pool": "demo", "steps": 3}
    model = build_backbone(
        **NANO,
        stride=6,
        num_cameras=3,
        gem=True,
        feature_norm=True,
        mean=HALF.mean,
        std=HALF.std,
        position_resampling="dino",
        objective="dino",
        provenance=provenance,
    ).eval()
    save_backbone(tmp_path / "backbone.safetensors", model)
    loaded = transreid_ssl.load_backbone(tmp_path / "backbone.safetensors")
    assert loaded.spec == model.spec == read_spec(tmp_path)
    assert loaded.spec.provenance == provenance
    assert not loaded.training
    cameras = torch.tensor([0, 2])
    assert torch.equal(loaded(images, cameras), model(images, cameras))
    assert loaded.load_report.missing == loaded.load_report.dropped == ()


def test_the_header_can_be_read_by_other_programs(tmp_path, backbone):
    save_backbone(tmp_path / "b.safetensors", backbone)
    with safetensors.safe_open(tmp_path / "b.safetensors", framework="np") as file:
        header = json.loads(file.metadata()["transreid_ssl"])
    assert header["grid"] == [8, 4]
    assert (header["patch_size"], header["embed_dim"]) == (8, 128)
    assert tuple(header["mean"]) == IMAGENET.mean


def test_the_spec_survives_json():
    spec = BackboneSpec("vit_small_patch16_ics", (384, 128), 12, *HALF, num_cameras=15)
    assert BackboneSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="unknown fields colour"):
        BackboneSpec.from_json('{"name": "vit_small_patch16_ics", "colour": 1}')


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_a_dino_training_checkpoint_gives_the_one_asked_for(tmp_path, backbone, images, which):
    other = build_backbone(**NANO)
    pair = {"student": other, "teacher": other} | {which: backbone}
    content = training_checkpoint(pair["student"].state_dict(), pair["teacher"].state_dict())
    torch.save(content, tmp_path / "checkpoint.pth")
    model = load_backbone(tmp_path / "checkpoint.pth", which=which)
    assert torch.equal(model(images), backbone(images))
    assert model.spec.position_resampling == "dino"
    assert (model.spec.mean, model.spec.std, model.spec.objective) == (*IMAGENET, "dino")
    unused = "student" if which == "teacher" else "teacher"
    said = {unused, "optimizer", "epoch", "args", "dino_loss", "fp16_scaler"}
    assert said < set(model.load_report.dropped)
    assert sum("head." in name for name in model.load_report.dropped) == 8
    assert "DINO training checkpoint" in str(model.load_report)
    assert "head.* (8)" in str(model.load_report)


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_a_converted_dino_backbone(tmp_path, backbone, images, prefix):
    torch.save(prefixed(prefix, backbone.state_dict()), tmp_path / "b.pth")
    model = load_backbone(tmp_path / "b.pth")
    assert torch.equal(model(images), backbone(images))
    assert model.spec.provenance == {"file": "b.pth", "format": "converted DINO backbone"}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_finetuned_network_gives_the_feature_before_its_neck(tmp_path, images, prefix):
    backbone = build_backbone(**PLAIN, num_cameras=6).eval()
    content = prefixed("base.", backbone.state_dict()) | neck()
    content["base.fc.weight"] = torch.zeros(1000, 128)
    torch.save(prefixed(prefix, content), tmp_path / "transformer_120.pth")
    model = load_backbone(tmp_path / "transformer_120.pth")
    cameras = torch.tensor([5, 1])
    assert torch.equal(model(images, cameras), backbone(images, cameras))
    assert (model.spec.mean, model.spec.num_cameras) == (HALF.mean, 6)
    left = {"bottleneck.weight", f"{prefix}classifier.weight", f"{prefix}base.fc.weight"}
    assert left < set(model.load_report.dropped)


def test_a_finetuned_network_may_tell_views_apart(tmp_path, images):
    backbone = build_backbone(**PLAIN, num_cameras=3, num_views=2, camera_weight=2.0).eval()
    torch.save(prefixed("base.", backbone.state_dict()), tmp_path / "views.pth")
    spec = read_spec(tmp_path / "views.pth")
    assert (spec.num_cameras, spec.num_views, spec.camera_weight) == (6, 1, 3.0)
    model = load_backbone(tmp_path / "views.pth", num_cameras=3, num_views=2, camera_weight=2.0)
    at = torch.tensor([2, 1]), torch.tensor([1, 0])
    assert torch.equal(model(images, *at), backbone(images, *at))
    assert str(model.spec).startswith("vit_nano_patch8_reid at 64x32")
    assert "3 camera x 2 views embeddings" in str(model.spec)
    save_backbone(tmp_path / "views.safetensors", model)
    assert load_backbone(tmp_path / "views.safetensors").spec == model.spec


def test_other_classes_and_cameras_are_left_aside_and_said(tmp_path, backbone, images):
    source = build_backbone(**NANO, num_cameras=6)
    source.load_state_dict(source.state_dict() | backbone.state_dict())
    torch.save(prefixed("base.", source.state_dict()) | neck(751), tmp_path / "t.pth")
    model = build_backbone(**NANO, num_cameras=15).eval()
    cameras = model.sie_embed.clone()
    report = load_weights(model, tmp_path / "t.pth")
    assert torch.equal(model.sie_embed, cameras)
    assert report.missing == ("sie_embed",)
    assert {"sie_embed", "classifier.weight"} < set(report.dropped)
    assert "missing 1: sie_embed" in str(report)
    assert torch.equal(model.norm.weight, backbone.norm.weight)


@pytest.mark.parametrize(
    ("prefix", "neck_name"),
    [("module.", "bottleneck"), ("module.base.", "bottleneck"), ("base.", "feat_bn")],
)
def test_a_cluster_contrast_checkpoint_keeps_its_feature_norm(tmp_path, images, prefix, neck_name):
    backbone = build_backbone(**NANO, feature_norm=True).eval()
    nn.init.normal_(backbone.bottleneck.weight)
    state, renamed = backbone.state_dict(), {}
    for name, value in state.items():
        module = "module." if prefix.startswith("module.") else ""
        own = name.startswith("bottleneck.")
        new = module + name.replace("bottleneck", neck_name) if own else prefix + name
        renamed[new] = value
    content = {"state_dict": renamed, "epoch": 50, "best_mAP": np.float64(0.4)}
    torch.save(content, tmp_path / "model_best.pth.tar")
    model = load_backbone(tmp_path / "model_best.pth.tar")
    assert torch.equal(model(images), backbone(images))
    assert model.spec.feature_norm
    assert model.spec.mean == HALF.mean
    assert model.load_report.dropped == ("epoch", "best_mAP")


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_imagenet_vit_starts_a_rectangular_network(tmp_path, wrapped):
    square = build_backbone(name="vit_nano_patch16_reid", img_size=(224, 224))
    head = {"head.weight": torch.zeros(1000, 128), "head.bias": torch.zeros(1000)}
    state = square.state_dict() | head
    torch.save({"model": state} if wrapped else state, tmp_path / "vit.pth")
    model = build_backbone(name="vit_nano_patch16_reid")
    report = load_weights(model, tmp_path / "vit.pth")
    assert report.format == "ImageNet ViT"
    assert report.dropped == ("head.weight", "head.bias")
    assert report.resized == ("pos_embed from 14x14 to 16x8 patches (bilinear)",)
    assert set(report.matched) == set(model.state_dict())
    expected = resample_positions(square.pos_embed, (14, 14), (16, 8), "bilinear")
    torch.testing.assert_close(model.pos_embed, expected)
    assert read_spec(tmp_path / "vit.pth").img_size == (224, 224)


def test_loading_for_another_size_resizes_from_the_true_grid(tmp_path, backbone):
    save_backbone(tmp_path / "b.safetensors", backbone)
    model = load_backbone(tmp_path / "b.safetensors", img_size=(96, 32), resampling="antialias")
    expected = resample_positions(backbone.pos_embed, (8, 4), (12, 4), "antialias")
    torch.testing.assert_close(model.pos_embed, expected)
    assert model.spec.img_size == (96, 32)
    # The same number of patches, in another arrangement.
    wide = load_backbone(tmp_path / "b.safetensors", img_size=(32, 64))
    assert wide.load_report.resized == ("pos_embed from 8x4 to 4x8 patches (bilinear)",)
    with pytest.raises(UserError, match="img_sise: no such setting"):
        load_backbone(tmp_path / "b.safetensors", img_sise=(96, 32))


@pytest.mark.parametrize(
    ("network", "name", "size", "stride"),
    [
        ("dino_vit_small", "vit_small_patch16_reid", (256, 128), 16),
        ("dino_vit_base_ics", "vit_base_patch16_ics", (256, 128), 16),
        ("reid_vit_small_stride12", "vit_small_patch16_reid", (256, 128), 12),
        ("reid_vit_small_sie6", "vit_small_patch16_reid", (256, 128), 16),
    ],
)
def test_published_networks_are_recognised_by_their_shapes(tmp_path, network, name, size, stride):
    from transreid_ssl.models.checkpoints import FINETUNED, Checkpoint

    state = {key: torch.empty(shape, device="meta") for key, shape in shapes(network).items()}
    spec = detect_spec(Checkpoint(tmp_path, FINETUNED, state))
    assert (spec.name, spec.img_size, spec.stride) == (name, size, stride)
    assert spec.num_cameras == (6 if "sie6" in network else 0)


def test_grids_of_the_usual_sizes_are_told_apart():
    assert detect_size(24 * 8, 16) == ((384, 128), 16)
    assert detect_size(14 * 14, 16) == ((224, 224), 16)
    assert detect_size(31 * 10, 16) == ((384, 128), 12)
    assert detect_size(16 * 16, 16) == ((256, 256), 16)
    assert detect_size(18 * 18, 16) == ((224, 224), 12)
    assert detect_size(137, 16) is None


def test_weights_that_mean_nothing_here_are_reported(tmp_path, backbone):
    torch.save(backbone.state_dict() | {"momentum_queue": torch.ones(3)}, tmp_path / "x.pth")
    report = load_weights(build_backbone(**NANO), tmp_path / "x.pth")
    assert report.unexpected == ("momentum_queue",)
    assert "unexpected 1: momentum_queue" in str(report)


def test_safetensors_without_our_header_are_recognised(tmp_path, backbone, images):
    safetensors.torch.save_file(backbone.state_dict(), tmp_path / "b.safetensors")
    assert torch.equal(load_backbone(tmp_path / "b.safetensors")(images), backbone(images))


def test_finding_weights(tmp_path, backbone, monkeypatch):
    with pytest.raises(UserError, match="no such weights file"):
        find_weights(tmp_path / "none.pth")
    with pytest.raises(UserError, match="in this folder; name the file"):
        find_weights(tmp_path)
    save_backbone(tmp_path / "model.safetensors", backbone)
    assert find_weights(tmp_path) == tmp_path / "model.safetensors"
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        if repository == "nobody/nothing":
            raise ConnectionError("offline")
        if name == "backbone.safetensors":
            raise EntryNotFoundError("404")
        return str(tmp_path / name)

    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert find_weights("owner/name") == tmp_path / "model.safetensors"
    assert asked == [("owner/name", f"{kind}.safetensors") for kind in ("backbone", "model")]
    with pytest.raises(UserError, match=r"nobody/nothing: neither a file here.*offline"):
        find_weights("hf-hub:nobody/nothing")
    assert len(asked) == 3
    with pytest.raises(UserError, match="no such weights file"):
        find_weights("missing/file.pth")


def test_names_come_from_sizes_alone_but_for_heads():
    found = {detect_name(sizes, "x.pth") for sizes in ARCHITECTURES.values()}
    assert set(ARCHITECTURES) - found == {"vit_small_patch16_heads12_reid"}


@pytest.mark.parametrize(("there", "here"), [("heads12_reid", "reid"), ("reid", "heads12_reid")])
def test_a_header_tells_how_many_heads_its_weights_have(tmp_path, there, here):
    with torch.device("meta"):
        model = build_backbone(f"vit_small_patch16_{here}", img_size=(32, 16))
    path, source = tmp_path / "b.safetensors", f"vit_small_patch16_{there}"
    save_backbone(path, build_backbone(source, img_size=(32, 16)))
    assert load_backbone(path).spec.name == source
    heads = {"reid": 6, "heads12_reid": 12}
    complaint = f"with {heads[there]} heads, but this network has {heads[here]}.*build {source}"
    with pytest.raises(UserError, match=complaint):
        load_weights(model, path)
    with pytest.raises(UserError, match=complaint):
        load_backbone(path, name=model.spec.name)


@pytest.mark.parametrize("name", ["vit_nano_patch8_ics", "resnet_nano_reid", "mgn_resnet_nano"])
def test_timm_is_told_what_the_spec_says(tmp_path, name):
    model = build_backbone(name, img_size=(64, 32), interpolation="cubic")
    save_backbone(tmp_path / "b.safetensors", model)
    loaded = load_backbone(tmp_path / "b.safetensors")
    loaded.spec = replace(loaded.spec, mean=HALF.mean, std=HALF.std)  # as fine-tuning does
    found = timm.data.resolve_model_data_config(loaded)
    assert found["input_size"] == (3, 64, 32)
    assert (found["mean"], found["std"]) == HALF
    assert (found["crop_pct"], found["interpolation"]) == (1.0, "bicubic")
    image = Image.new("RGB", (90, 100), (255, 0, 127))
    image.putpixel((89, 99), (0, 0, 0))  # at the edge, where a crop would lose it
    made = timm.data.create_transform(**found)(image)
    assert made.shape == (3, 64, 32)
    assert made[0, -1, -1] < made[0, 0, 0]
