"""ResNets against torchvision's, their norms and strides, and what all backbones share."""

import copy
import functools
import pickle

import pytest
import timm
import torch
import torchvision
from torch import _dynamo as dynamo
from torch._dynamo.utils import counters
from torch.nn import functional as F

from transreid_ssl import UserError
from transreid_ssl.models import (
    BackboneSpec,
    ReIDResNet,
    build_backbone,
    class_attention,
    load_backbone,
    save_backbone,
)
from transreid_ssl.models.norms import group_norms
from transreid_ssl.models.resnet import Compilable, Trunk
from transreid_ssl.models.stem import IBN
from transreid_ssl.training.speed import PROGRAMS

NANO = {"name": "resnet_nano_reid", "img_size": (64, 32)}


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 32)


def shapes_of(model):
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_weights_have_the_names_and_shapes_of_torchvision(depth):
    with torch.device("meta"):
        theirs = shapes_of(getattr(torchvision.models, f"resnet{depth}")())
        ours = shapes_of(build_backbone(f"resnet{depth}_reid"))
    assert ours == {name: shape for name, shape in theirs.items() if not name.startswith("fc.")}


@torch.no_grad()
def test_the_feature_is_what_torchvision_classifies():
    theirs = torchvision.models.resnet50().eval()
    theirs.fc = torch.nn.Identity()
    with torch.device("meta"):
        ours = build_backbone("resnet50_reid").eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    images = torch.randn(1, 3, 64, 32)
    torch.testing.assert_close(ours(images), theirs(images))


def test_ibn_is_in_the_blocks_of_the_first_three_stages_alone():
    with torch.device("meta"):
        model = build_backbone("resnet50_ibn_reid")
    mixed = {name for name, module in model.named_modules() if isinstance(module, IBN)}
    depths = {1: 3, 2: 4, 3: 6}
    assert mixed == {f"layer{n}.{i}.bn1" for n, depth in depths.items() for i in range(depth)}
    assert model.layer2[0].bn1.split == 64


def test_a_last_stride_of_one_only_looks_at_more_places(images):
    coarse = build_backbone(**NANO).eval()
    fine = build_backbone(**NANO, stride=16).eval()
    fine.load_state_dict(coarse.state_dict())
    assert (coarse.spec.stride, coarse.spec.grid, fine.spec.grid) == (32, (2, 1), (4, 2))
    early = fine.layer3(
        fine.layer2(fine.layer1(fine.maxpool(fine.act1(fine.bn1(fine.conv1(images))))))
    )
    block = fine.layer4[0]
    x = F.conv2d(early, block.conv1.weight, stride=1, padding=1)
    x = block.bn2(F.conv2d(block.bn1(x).relu(), block.conv2.weight, padding=1))
    shortcut = block.downsample[1](F.conv2d(early, block.downsample[0].weight))
    expected = (x + shortcut).relu()
    feature, maps = fine.forward_with_map(images)
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(feature, expected.mean(dim=(2, 3)))
    assert coarse.forward_with_map(images)[1].shape == (3, 128, 2, 1)


@pytest.mark.parametrize("name", ["resnet_nano_reid", "vit_nano_patch8_ics"])
@pytest.mark.parametrize("options", [{}, {"gem": True}, {"feature_norm": True}])
def test_the_map_comes_with_the_feature_of_forward(images, name, options):
    model = build_backbone(name, img_size=(64, 32), **options).eval()
    feature, maps = model.forward_with_map(images)
    assert torch.equal(feature, model(images))
    assert maps.shape == (3, model.spec.embed_dim, *model.spec.grid)


def test_the_map_of_a_vit_has_its_patches_row_by_row(images):
    model = build_backbone("vit_nano_patch8_reid", img_size=(64, 32)).eval()
    tokens, maps = model.forward_features(images), model.forward_with_map(images)[1]
    for row, column in ((0, 0), (0, 3), (5, 1)):
        torch.testing.assert_close(maps[:, :, row, column], tokens[:, 1 + 4 * row + column])


def test_gem_takes_the_place_of_the_mean(images):
    model = build_backbone(**NANO, stride=16, gem=True).eval()
    feature, maps = model.forward_with_map(images)
    for channel in (0, 77):
        values = [max(v.item(), 1e-6) ** 3 for v in maps[1, channel].flatten()]
        expected = (sum(values) / len(values)) ** (1 / 3)
        assert feature[1, channel].item() == pytest.approx(expected, abs=1e-5)


def test_feature_norm_is_a_batch_norm_over_the_feature():
    model = build_backbone(**NANO, feature_norm=True)
    features = model(torch.randn(16, 3, 64, 32))
    torch.testing.assert_close(features.mean(0), torch.zeros(128), atol=1e-5, rtol=0)
    assert not model.bottleneck.bias.requires_grad


@pytest.mark.parametrize("size", [(64, 32), (33, 17), (8, 8), (384, 128)])
@pytest.mark.parametrize("stride", [16, 32])
def test_the_grid_is_what_comes_out(size, stride):
    with torch.device("meta"):
        model = build_backbone("resnet_nano_reid", img_size=size, stride=stride)
        maps = model.forward_with_map(torch.empty(2, 3, *size))[1]
    assert maps.shape[2:] == model.spec.grid


def test_gradient_checkpointing_changes_nothing(images):
    model = build_backbone(**NANO)
    gradients = []
    for enable in (False, True):
        twin = copy.deepcopy(model)
        twin.set_grad_checkpointing(enable)
        twin(images).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in twin.parameters()]))
    torch.testing.assert_close(*gradients)


def test_saved_and_loaded_features_are_equal(tmp_path, images):
    model = build_backbone(**NANO, stride=16, gem=True, feature_norm=True, objective="moco").eval()
    save_backbone(tmp_path / "backbone.safetensors", model)
    loaded = load_backbone(tmp_path / "backbone.safetensors")
    assert isinstance(loaded, ReIDResNet)
    assert loaded.spec == model.spec
    assert torch.equal(loaded(images), model(images))
    assert loaded.load_report.missing == loaded.load_report.dropped == ()
    coarse = load_backbone(tmp_path, stride=32)
    assert coarse.forward_with_map(images)[1].shape[2:] == (2, 1)
    assert str(coarse.spec) == (
        "resnet_nano_reid at 64x32 (feature map 2x1), gem, feature_norm, moco"
    )


def test_the_spec_survives_json_and_has_no_patches():
    spec = BackboneSpec("resnet50_ibn_reid", (384, 128), 16, gem=True)
    assert BackboneSpec.from_json(spec.to_json()) == spec
    assert (spec.patch_size, spec.grid, spec.embed_dim) == (None, (24, 8), 2048)


def test_timm_options_reach_the_network(images):
    model = timm.create_model("resnet_nano_reid", img_size=(64, 32), num_classes=7, stride=16)
    assert model(images).shape == (3, 7)
    assert model.spec.grid == (4, 2)
    assert sum(p.numel() for p in build_backbone(**NANO).parameters()) < 500_000


def test_residual_branches_do_not_start_at_zero():
    # Whatever timm's default is: published weights were trained from torchvision's start.
    trunk = Trunk(BackboneSpec("resnet_nano_reid").architecture)
    assert all((block.bn2.weight == 1).all() for block in trunk.layer3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"stride": 12}, "stride 12: .*32, or at 16"),
        ({"num_cameras": 6}, r"camera embeddings: .*vit_"),
        ({"img_size": (0, 32)}, "img_size"),
        ({"name": "mgn_resnet_nano", "stride": 32}, "stride 32: .*leave it out"),
        ({"name": "mgn_resnet_nano", "gem": True}, "gem: .*leave it out"),
        ({"name": "mgn_resnet_nano", "feature_norm": True}, "feature_norm: .*leave it out"),
        ({"name": "mgn_resnet_nano", "num_cameras": 6}, "camera embeddings"),
    ],
)
def test_settings_that_do_not_apply_are_refused_in_one_line(options, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        build_backbone(**{**NANO, **options})
    assert "\n" not in str(caught.value)


def test_attention_is_of_transformers_alone(images):
    with pytest.raises(UserError, match="resnet_nano_reid: has no class token"):
        class_attention(build_backbone(**NANO), images)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler's
@pytest.mark.parametrize("name", ["resnet_nano_reid", "mgn_resnet_nano"])
def test_compiled_blocks_compute_the_same_and_evaluate_as_before(name, monkeypatch):
    graphs = []

    def backend(graph, _examples):
        graphs.append(graph)
        return graph.forward

    @functools.cache
    def compiled(block):
        return torch.compile(block.plain_forward, dynamic=False, backend=backend)

    torch.compiler.reset()
    counters.clear()
    monkeypatch.setattr("transreid_ssl.models.resnet.compiled", compiled)
    images = torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8)
    plain = build_backbone(name, img_size=(64, 32)).train()
    group_norms(plain, device="cpu", num_processes=1, norm_images=2, images=4)
    model = copy.deepcopy(plain)
    model.compile_blocks()
    with dynamo.config.patch(recompile_limit=PROGRAMS):
        for one in (plain, model):
            one(images).square().sum().backward()
    count = sum(isinstance(module, Compilable) for module in model.modules())
    assert 0 < len(graphs) <= count
    assert counters["stats"]["unique_graphs"] == len(graphs)
    assert not counters["graph_break"]
    for (_, expected), (label, found) in zip(
        plain.named_parameters(), model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(found.grad, expected.grad, msg=label)
    for expected, found in zip(plain.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(found, expected)
    traced = len(graphs)
    assert torch.equal(model.eval()(images[:3]), plain.eval()(images[:3]))
    assert len(graphs) == traced
    pickle.dumps(model)


def test_blocks_whose_norms_meet_other_processes_are_not_compiled():
    model = build_backbone(**NANO)
    block = model.layer1[0]
    block.bn1 = torch.nn.SyncBatchNorm(block.bn1.num_features)
    model.compile_blocks()
    others = [module for module in model.modules() if isinstance(module, Compilable)][1:]
    assert not block.compiles
    assert others
    assert all(other.compiles for other in others)
