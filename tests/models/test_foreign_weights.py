"""Other people's weights: read as what they are, with a word on what is taken for granted."""

import pytest
import timm
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
from transreid_ssl.models.checkpoints import JPM_NOTE
from transreid_ssl.weights import main

PLAIN = {"name": "vit_nano_patch8_reid", "img_size": (64, 32)}


@pytest.mark.parametrize(
    ("name", "size", "kind"),
    [
        ("vit_small_patch16_dinov3", 64, "DINOv3"),
        ("vit_base_patch16_clip_224", 64, "CLIP"),
        ("swin_tiny_patch4_window7_224", 56, "Swin"),
    ],
)
def test_networks_of_timm_that_are_not_supported_are_named(tmp_path, name, size, kind):
    sizes = {"embed_dim": 24, "depths": (1, 1)} if "swin" in name else {"embed_dim": 64, "depth": 2}
    heads = {"num_heads": (1, 2) if "swin" in name else 2}
    state = timm.create_model(name, img_size=size, **sizes, **heads).state_dict()
    if "swin" in name:
        state["layers.0.blocks.0.attn.relative_position_bias_table"] = torch.ones(169, 1)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"x.pth: holds a {kind} .*not supported; give") as caught:
        load_backbone(tmp_path / "x.pth")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["cls_token", "rope_embed.periods", "storage_tokens"], "DINOv3"),
        (["embeddings.cls_token", "embeddings.register_tokens"], "DINOv3"),
        (["embeddings.mask_token", "encoder.layer.0.layer_scale1.lambda1"], "DINOv2"),
        (["cls_token", "blocks.0.0.ls1.gamma"], "DINOv2"),
        (["cls_token", "blocks.0.ls1.gamma", "blocks.0.mlp.w12.weight"], "DINOv2"),
        (["visual.class_embedding", "visual.conv1.weight"], "CLIP"),
        (["vision_model.embeddings.class_embedding"], "CLIP"),
    ],
)
def test_so_are_those_of_other_programs(tmp_path, names, kind):
    torch.save({name: torch.ones(2) for name in names}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"holds a {kind} network.*not supported"):
        load_backbone(tmp_path / "x.pth")


@pytest.mark.parametrize("wrapper", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_what_programs_put_around_a_network_is_taken_off(tmp_path, wrapper, key):
    model = build_backbone(**PLAIN)
    state = prefixed(wrapper, model.state_dict())
    torch.save({key: state, "epoch": 1} if key else state, tmp_path / "x.pth")
    loaded = load_backbone(tmp_path / "x.pth")
    assert torch.equal(loaded.norm.weight, model.norm.weight)
    assert len(loaded.load_report.matched) == len(model.state_dict())


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_teacher_and_student_side_by_side(tmp_path, which):
    teacher, student = build_backbone(**PLAIN), build_backbone(**PLAIN)
    both = prefixed("teacher.backbone.", teacher.state_dict())
    torch.save(
        {"state_dict": both | prefixed("student.backbone.", student.state_dict())},
        tmp_path / "x.ckpt",
    )
    loaded = load_backbone(tmp_path / "x.ckpt", which=which)
    chosen = teacher if which == "teacher" else student
    assert torch.equal(loaded.cls_token, chosen.cls_token)
    assert loaded.load_report.format == "DINO training checkpoint"


@pytest.mark.parametrize("prefix", ["base_encoder", "momentum_encoder"])
def test_moco_v3_s_vit_has_twelve_heads(tmp_path, prefix):
    with torch.device("meta"):
        sizes = build_backbone("vit_small_patch16_reid", img_size=(224, 224)).state_dict()
    encoder = {name: torch.full(value.shape, 0.5) for name, value in sizes.items()}
    state = prefixed(f"module.{prefix}.", encoder | {"head.0.weight": torch.ones(4, 384)})
    if prefix == "base_encoder":
        others = {name: torch.zeros(shape.shape) for name, shape in sizes.items()}
        state |= prefixed("module.momentum_encoder.", others)
    state["module.predictor.0.weight"] = torch.ones(4, 4)
    torch.save({"state_dict": state, "arch": "vit_small", "epoch": 300}, tmp_path / "m.pth.tar")
    spec = read_spec(tmp_path / "m.pth.tar")
    assert (spec.name, spec.img_size) == ("vit_small_patch16_heads12_reid", (224, 224))
    assert (spec.mean, spec.objective) == (IMAGENET.mean, "mocov3")
    model = load_backbone(tmp_path / "m.pth.tar")
    assert model.cls_token.eq(0.5).all()
    assert model.load_report.format == "MoCo v3 training checkpoint"
    with pytest.raises(UserError, match="with 12 heads, but this network has 6"):
        load_weights(build_backbone("vit_small_patch16_reid"), tmp_path / "m.pth.tar")


def test_moco_v3_s_resnet(tmp_path):
    model = build_backbone("resnet_nano_reid")
    state = prefixed("module.base_encoder.", model.state_dict() | {"fc.0.weight": torch.ones(2, 2)})
    torch.save({"state_dict": state}, tmp_path / "r.pth.tar")
    loaded = load_backbone(tmp_path / "r.pth.tar")
    assert torch.equal(loaded.conv1.weight, model.conv1.weight)
    assert (loaded.spec.mean, loaded.spec.objective) == (IMAGENET.mean, "mocov3")


@pytest.mark.parametrize(
    ("classes", "format", "statistics", "said"),
    [
        (1000, "ImageNet ResNet", IMAGENET, ""),
        (751, "ResNet with a classifier of other classes", IMAGENET, "ImageNet's mean and std"),
        (None, "ResNet without a classifier", LUPERSON, "LUPerson's mean and std"),
    ],
)
def test_statistics_are_known_or_said_to_be_assumed(
    tmp_path, capsys, classes, format, statistics, said
):
    state = build_backbone("resnet_nano_reid").state_dict()
    fc = {} if classes is None else {"fc.weight": torch.ones(classes, 128)}
    torch.save(state | fc, tmp_path / "r.pth")
    model = load_backbone(tmp_path / "r.pth")
    assert model.load_report.format.startswith(format)
    assert (model.spec.mean, model.spec.std) == statistics
    assert said in str(model.load_report)
    assert ("does not say" in str(model.load_report)) == bool(said)
    main(["convert", f"{tmp_path}/r.pth", f"{tmp_path}/r.safetensors", "--statistics", "half"])
    assert read_spec(tmp_path / "r.safetensors").std == (0.5, 0.5, 0.5)
    assert "does not say" not in capsys.readouterr().out


def test_which_block_of_a_jpm_is_read_is_said(tmp_path):
    model = build_backbone(**PLAIN, jpm=True)
    state = prefixed("base.", {k: v for k, v in model.state_dict().items() if "b2." not in k})
    state |= {k: v for k, v in model.state_dict().items() if k.startswith("b2.")}
    state |= {f"b1.0.{k}": v + 1 for k, v in model.blocks[-1].state_dict().items()}
    state |= {f"b1.1.{k}": v + 1 for k, v in model.norm.state_dict().items()}
    torch.save(state, tmp_path / "t.pth")
    loaded = load_backbone(tmp_path / "t.pth")
    assert torch.equal(loaded.norm.weight, model.norm.weight + 1)
    assert JPM_NOTE in loaded.load_report.surprises()


def test_unknown_weights_are_a_surprise(tmp_path):
    state = build_backbone(**PLAIN).state_dict() | {"adapter.down": torch.ones(2)}
    torch.save(state, tmp_path / "x.pth")
    assert "adapter" in load_backbone(tmp_path / "x.pth").load_report.surprises()[-1]
