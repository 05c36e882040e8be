"""The multiple granularity network: its branches, its parts, its initial weights, its files."""

import copy

import pytest
import torch

from transreid_ssl import UserError
from transreid_ssl.models import MGN, build_backbone, load_backbone, load_weights, save_backbone
from transreid_ssl.models.mgn import stripe_maxima

NANO = {"name": "mgn_resnet_nano", "img_size": (96, 32)}
TRUNK = {"name": "resnet_nano_reid", "img_size": (96, 32)}


@pytest.fixture
def images():
    return torch.randn(2, 3, 96, 32)


@pytest.fixture
def resnet():
    return build_backbone(**TRUNK).eval()


@pytest.mark.parametrize(
    ("stripes", "height", "rows"),
    [(1, 6, []), (2, 6, [(0, 3), (3, 6)]), (3, 6, [(0, 2), (2, 4), (4, 6)]),
     (2, 5, [(0, 3), (2, 5)])],
)  # fmt: skip
def test_stripes_are_maxima_over_their_rows(stripes, height, rows):
    x = torch.randn(2, 4, height, 3)
    found = stripe_maxima(x, stripes)
    assert found.shape == (2, 1 + len(rows), 4)
    for image in range(2):
        for channel in range(4):
            spans = [(0, height), *rows]
            expected = [
                max(x[image, channel, r, c].item() for r in range(low, high) for c in range(3))
                for low, high in spans
            ]
            assert found[image, :, channel].tolist() == expected


def test_each_branch_is_a_copy_of_the_resnet_that_starts_it(tmp_path, images, resnet):
    save_backbone(tmp_path / "r.safetensors", resnet)
    model = build_backbone(**NANO).eval()
    report = load_weights(model, tmp_path / "r.safetensors")
    new = {name for name in model.state_dict() if ".norm." in name or ".reductions." in name}
    assert set(report.missing) == new
    found = model(images, parts=True)
    fine = build_backbone(**TRUNK, stride=16).eval()
    fine.load_state_dict(resnet.state_dict())
    scale = (1 + 1e-5) ** -0.5  # a batch norm that has seen nothing
    for branch, twin in enumerate((resnet, fine, fine)):
        expected = twin.forward_features(images).amax(dim=(2, 3)) * scale
        torch.testing.assert_close(found.pooled[:, branch], expected)
    halves = (
        fine.forward_features(images).unflatten(2, (2, 3)).amax(dim=(3, 4)) * scale
    )  # (B, C, 2)
    lower = model.branches[1].reductions[2](halves[:, :, 1])
    torch.testing.assert_close(found.parts[:, 1], lower)


def test_the_feature_is_all_reduced_vectors(images):
    model = build_backbone(**NANO).eval()
    found, feature = model(images, parts=True), model(images)
    assert (found.pooled.shape, found.whole.shape, found.parts.shape) == (
        (2, 3, 128), (2, 3, 32), (2, 5, 32),
    )  # fmt: skip
    assert feature.shape == (2, model.spec.embed_dim) == (2, 256)
    expected = torch.cat([*found.whole.unbind(1), *found.parts.unbind(1)], dim=1)
    assert torch.equal(feature, expected)
    assert torch.equal(feature, found.feature)
    assert (feature >= 0).all()


def test_a_stripe_sees_nothing_of_a_distant_one():
    # Through padding and strides the receptive field is wide, but not as high as a tall image.
    model = build_backbone(**NANO).eval()
    images = torch.randn(1, 3, 960, 32)
    changed = images.clone()
    changed[:, :, 800:] += 1
    before, after = model(images, parts=True).parts, model(changed, parts=True).parts
    torch.testing.assert_close(before[:, [0, 2, 3]], after[:, [0, 2, 3]])
    for lowest in (1, 4):
        assert not torch.allclose(before[:, lowest], after[:, lowest])


def test_saved_and_loaded_features_are_equal(tmp_path, images):
    model = build_backbone(**NANO, objective="supervised").eval()
    for branch in model.branches:
        torch.nn.init.normal_(branch.norm.running_mean)
    save_backbone(tmp_path / "model.safetensors", model)
    loaded = load_backbone(tmp_path / "model.safetensors")
    assert isinstance(loaded, MGN)
    assert loaded.spec == model.spec
    assert torch.equal(loaded(images), model(images))
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    assert load_backbone(tmp_path / "plain.pth").spec.name == "mgn_resnet_nano"


def test_weights_of_an_mgn_are_not_taken_for_its_resnets(tmp_path, resnet):
    save_backbone(tmp_path / "m.safetensors", build_backbone(**NANO))
    with pytest.raises(UserError, match=r"a network with MGN.*build mgn_resnet_nano"):
        load_weights(resnet, tmp_path / "m.safetensors")
    model = build_backbone(**NANO)
    state = {k: v for k, v in model.state_dict().items() if "branches.2.norm" not in k}
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"lacks weights .*branches.2.norm"):
        load_weights(model, tmp_path / "less.pth")


def test_the_large_one_is_the_papers():
    with torch.device("meta"):
        model = build_backbone("mgn_resnet50", img_size=(384, 128))
        found = model(torch.empty(2, 3, 384, 128), parts=True)
    assert found.pooled.shape == (2, 3, 2048)
    assert found.feature.shape == (2, 2048)
    assert model.spec.grid == (24, 8)
    assert [len(branch.layer3) for branch in model.branches] == [5, 5, 5]
    assert list(model.layer3._modules) == ["0"]
    assert model.branches[0].layer4[0].conv2.stride == (2, 2)
    assert model.branches[2].layer4[0].conv2.stride == (1, 1)


def test_gradient_checkpointing_changes_nothing(images):
    model = build_backbone(**NANO)
    gradients = []
    for enable in (False, True):
        twin = copy.deepcopy(model)
        twin.set_grad_checkpointing(enable)
        twin(images).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in twin.parameters()]))
    torch.testing.assert_close(*gradients)


def test_pretrained_parameters_are_those_of_a_resnet(resnet):
    model = build_backbone(**NANO)
    names = {id(p): name for name, p in model.named_parameters()}
    rest = {name for name in names.values() if ".norm." in name or ".reductions." in name}
    assert {names[id(p)] for p in model.pretrained_parameters()} == set(names.values()) - rest
    assert len(rest) == 3 * 2 + 8 * 3


def test_a_classifier_is_refused():
    import timm

    with pytest.raises(UserError, match="num_classes: mgn_resnet_nano"):
        timm.create_model("mgn_resnet_nano", num_classes=7)
