"""The MGN files that LUPerson publishes, in the form and under the names of fast-reid."""

import pytest
import torch

from transreid_ssl import UserError
from transreid_ssl.models import (
    LUPERSON,
    LUPERSON_MGN,
    build_backbone,
    load_backbone,
    load_weights,
    read_spec,
    save_backbone,
)
from transreid_ssl.models.fast_reid import mgn_name

NANO = {"name": "mgn_resnet_nano_luperson", "img_size": (96, 32)}
# Where fast-reid keeps what our network calls so, part by part.
SHARED = {
    "conv1.": "backbone.0.", "bn1.": "backbone.1.", "layer1.": "backbone.4.",
    "layer2.": "backbone.5.", "layer3.0.": "backbone.6.",
}  # fmt: skip
HEADS = [["b1"], ["b2", "b21", "b22"], ["b3", "b31", "b32", "b33"]]
ALL_HEADS = [head for branch in HEADS for head in branch]


def fast_reid_name(name):
    for ours, theirs in SHARED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    _, branch, kind, number, rest = [*name.split(".", 4), ""][:5]
    stage = f"b{int(branch) + 1}"
    if kind == "layer3":
        return f"{stage}.0.{int(number) - 1}.{rest}"
    if kind == "layer4":
        return f"{stage}.1.{number}.{rest}"
    if kind == "norm":
        return f"heads_extra_bn_{stage}.{number}"
    head = f"{HEADS[int(branch)][int(number)]}_head"
    return f"{head}.pool_layer.p" if kind == "pools" else f"{head}.bottleneck.{rest}"


def published(model, classes=751):
    """The state that fast-reid saves of this network: convolutions for linear layers, and heads."""
    state = {"pixel_mean": torch.tensor([89.896, 79.200, 80.073]).view(1, 3, 1, 1)}
    state["pixel_std"] = torch.tensor([63.872, 64.305, 63.839]).view(1, 3, 1, 1)
    for name, value in model.state_dict().items():
        is_linear = ".reductions." in name and name.endswith(".0.weight")
        state[fast_reid_name(name)] = value[:, :, None, None] if is_linear else value
    for head in ALL_HEADS:
        dim = model.spec.architecture.dim
        state[f"{head}_head.classifier.weight"] = torch.zeros(classes, dim)
    return {"model": state, "iteration": 12119}


@pytest.fixture
def model():
    model = build_backbone(**NANO).eval()
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "conv" not in name and "downsample.0" not in name:
            torch.nn.init.uniform_(value, 0.5, 1.5)  # statistics and exponents, too
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 96, 32)


def test_the_names_are_fast_reid_s(model):
    names = set(published(model)["model"])
    assert {
        "backbone.0.weight", "backbone.1.running_var", "backbone.4.0.bn2.bias",
        "backbone.5.0.downsample.1.weight", "backbone.6.conv1.weight", "b1.0.0.conv1.weight",
        "b2.1.0.downsample.0.weight", "b3.1.0.bn1.num_batches_tracked", "heads_extra_bn_b2.weight",
        "heads_extra_bn_b3.running_mean", "b1_head.pool_layer.p", "b22_head.bottleneck.0.weight",
        "b33_head.bottleneck.1.bias", "b31_head.classifier.weight",
    } < names  # fmt: skip


def test_a_published_file_gives_the_network_and_what_to_feed_it(tmp_path, model, images):
    torch.save(published(model), tmp_path / "market.pth")
    loaded = load_backbone(tmp_path / "market.pth")
    spec, report = loaded.spec, loaded.load_report
    assert torch.equal(loaded(images), model(images))
    assert (spec.name, spec.img_size, spec.stride) == (NANO["name"], (384, 128), 16)
    assert (spec.objective, report.format) == ("supervised", "fast-reid MGN")
    assert spec.mean == pytest.approx(LUPERSON_MGN.mean, abs=1e-7)
    assert spec.std == pytest.approx(LUPERSON_MGN.std, abs=1e-7)
    assert spec.mean == pytest.approx(LUPERSON.mean, abs=1e-4)
    assert (report.missing, report.unexpected, report.resized) == ((), (), ())
    heads = {f"{head}_head.classifier.weight" for head in ALL_HEADS}
    assert set(report.dropped) == heads | {"pixel_mean", "pixel_std", "iteration"}
    save_backbone(tmp_path / "converted.safetensors", loaded)
    assert read_spec(tmp_path / "converted.safetensors") == spec


def test_files_of_several_gpus_are_the_same(tmp_path, model, images):
    state = {f"module.{name}": value for name, value in published(model)["model"].items()}
    del state["module.pixel_mean"]
    torch.save({"model": state}, tmp_path / "msmt.pth")
    loaded = load_backbone(tmp_path / "msmt.pth")
    assert torch.equal(loaded(images), model(images))
    assert (loaded.spec.mean, loaded.spec.std) == LUPERSON_MGN


def test_a_published_file_starts_a_network_of_its_kind(tmp_path, model, images):
    torch.save(published(model), tmp_path / "market.pth")
    own = build_backbone(**NANO).eval()
    load_weights(own, tmp_path / "market.pth")
    assert torch.equal(own(images), model(images))
    with pytest.raises(UserError, match="build mgn_resnet_nano_luperson, or give other weights"):
        load_weights(build_backbone("mgn_resnet_nano"), tmp_path / "market.pth")


@pytest.mark.parametrize(
    ("gone", "complaint"),
    [
        ("heads_extra_bn_b2", r"lacks weights .*branches\.1\.norm\.weight"),
        ("b32_head.bottleneck.1", r"lacks weights .*branches\.2\.reductions\.2\.1"),
        ("b1_head.pool_layer.p", "no vision transformer and no ResNet"),  # pooled in another way
    ],
)
def test_another_mgn_of_fast_reid_is_refused(tmp_path, model, gone, complaint):
    content = published(model)
    content["model"] = {k: v for k, v in content["model"].items() if not k.startswith(gone)}
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=complaint):
        load_backbone(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["mgn_resnet50_luperson", "mgn_resnet50_ibn_luperson"])
def test_the_large_ones_are_recognised_by_their_names(tmp_path, name):
    with torch.device("meta"):
        model = build_backbone(name)
        state = published(model)["model"]
    assert {mgn_name(name) for name in state} - {None} == set(model.state_dict())
