"""The multiple granularity network: its branches, its parts, its initial weights, its files."""

import copy

import pytest
import torch

from transreid_ssl import UserError
from transreid_ssl.models import MGN, build_backbone, load_backbone, load_weights, save_backbone
from transreid_ssl.models.mgn import whole_and_stripes

NANO = {"name": "mgn_resnet_nano", "img_size": (96, 32)}
LUPERSON_NANO = {"name": "mgn_resnet_nano_luperson", "img_size": (96, 32)}
HEADS = pytest.mark.parametrize("options", [NANO, LUPERSON_NANO], ids=["mgn", "luperson"])
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
def test_stripes_are_rows_of_the_map(stripes, height, rows):
    x = torch.randn(2, 4, height, 3)
    found = whole_and_stripes(x, stripes)
    assert len(found) == 1 + len(rows)
    for region, (low, high) in zip(found, [(0, height), *rows]):
        assert torch.equal(region, x[:, :, list(range(low, high))])


@HEADS
def test_vectors_are_pooled_from_their_rows_and_reduced(images, options):
    model = build_backbone(**options).eval()
    for parameter in model.branches.parameters():
        torch.nn.init.uniform_(parameter, -0.1, 0.2)
    luperson = options is LUPERSON_NANO
    if luperson:
        for i, branch in enumerate(model.branches):
            for j, pool in enumerate(branch.pools):
                torch.nn.init.constant_(pool.power, 2.0 + i + 0.3 * j)
    maps = []
    for branch in model.branches:
        branch.norm.register_forward_hook(lambda *args: maps.append(args[2]))
    found = model(images, parts=True)
    for branch, stripes in enumerate((1, 2, 3)):
        x, layers = maps[branch], model.branches[branch]
        height = x.shape[2]  # 6 rows, but 3 where the paper's first branch keeps the last stride
        spans = [(0, height)]
        if stripes > 1:
            rows = height // stripes
            spans += [(i * rows, (i + 1) * rows) for i in range(stripes)]
        for vector, (low, high) in enumerate(spans):
            cells = x[:, :, low:high].flatten(2)
            power = 2.0 + branch + 0.3 * vector
            mean = (cells.clamp(min=1e-6) ** power).mean(2) ** (1 / power)
            pooled = mean if luperson else cells.amax(2)
            linear, norm = layers.reductions[vector][:2]
            reduced = norm.weight * (pooled @ linear.weight.T) / (1 + 1e-5) ** 0.5 + norm.bias
            place = sum((0, 2)[:branch]) + vector - 1  # among the parts: halves, then thirds
            if vector == 0:
                torch.testing.assert_close(found.pooled[:, branch], pooled)
            given = found.parts[:, place] if vector else found.whole[:, branch]
            torch.testing.assert_close(given, reduced if luperson else reduced.relu())


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


def test_a_resnet_starts_every_branch_of_luperson_s(tmp_path, images, resnet):
    save_backbone(tmp_path / "r.safetensors", resnet)
    model = build_backbone(**LUPERSON_NANO).eval()
    report = load_weights(model, tmp_path / "r.safetensors")
    new = {"norm", "pools", "reductions"}
    assert {name.split(".")[2] for name in report.missing} == new
    assert report.unexpected == ()
    fine = build_backbone(**TRUNK, stride=16).eval()
    fine.load_state_dict(resnet.state_dict())
    cells = fine.forward_features(images).flatten(2) * (1 + 1e-5) ** -0.5
    expected = (cells.clamp(min=1e-6) ** 3).mean(2) ** (1 / 3)
    for pooled in model(images, parts=True).pooled.unbind(1):
        torch.testing.assert_close(pooled, expected)


@HEADS
def test_the_feature_is_all_reduced_vectors(images, options):
    model = build_backbone(**options).eval()
    found, feature = model(images, parts=True), model(images)
    assert (found.pooled.shape, found.whole.shape, found.parts.shape) == (
        (2, 3, 128), (2, 3, 32), (2, 5, 32),
    )  # fmt: skip
    assert feature.shape == (2, model.spec.embed_dim) == (2, 256)
    expected = torch.cat([*found.whole.unbind(1), *found.parts.unbind(1)], dim=1)
    assert torch.equal(feature, expected)
    assert torch.equal(feature, found.feature)
    assert (feature >= 0).all() == (options is NANO)


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


@HEADS
def test_saved_and_loaded_features_are_equal(tmp_path, images, options):
    model = build_backbone(**options, objective="supervised").eval()
    for branch in model.branches:
        torch.nn.init.normal_(branch.norm.running_mean)
    save_backbone(tmp_path / "model.safetensors", model)
    loaded = load_backbone(tmp_path / "model.safetensors")
    assert isinstance(loaded, MGN)
    assert loaded.spec == model.spec
    assert torch.equal(loaded(images), model(images))
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    assert load_backbone(tmp_path / "plain.pth").spec.name == options["name"]


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


def test_luperson_s_network_is_as_published():
    with torch.device("meta"):
        model = build_backbone("mgn_resnet101_luperson", img_size=(384, 128))
        found = model(torch.empty(2, 3, 384, 128), parts=True)
    assert (found.pooled.shape, found.feature.shape) == ((2, 3, 2048), (2, 2048))
    assert [len(branch.layer3) for branch in model.branches] == [22, 22, 22]
    for branch in model.branches:  # every last stage keeps its resolution
        strides = {branch.layer4[0].conv2.stride, branch.layer4[0].downsample[0].stride}
        assert strides == {(1, 1)}
    model = build_backbone(**LUPERSON_NANO)
    for branch in model.branches:
        for pool, (linear, norm) in zip(branch.pools, branch.reductions):
            assert (pool.power.item(), linear.bias, norm.bias.abs().max()) == (3, None, 0)
            assert not norm.bias.requires_grad
            assert linear.weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.05)


def test_weights_of_one_head_are_not_taken_for_another_s(tmp_path):
    save_backbone(tmp_path / "m.safetensors", build_backbone(**NANO))
    with pytest.raises(UserError, match=r"with MGN, .*has LUPerson's MGN, .*build mgn_resnet_nano"):
        load_weights(build_backbone(**LUPERSON_NANO), tmp_path / "m.safetensors")


@HEADS
def test_gradient_checkpointing_changes_nothing(images, options):
    model = build_backbone(**options)
    gradients = []
    for enable in (False, True):
        twin = copy.deepcopy(model)
        twin.set_grad_checkpointing(enable)
        twin(images).square().sum().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in twin.parameters() if p.requires_grad])
        )
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("options", "new"), [(NANO, 3 * 2 + 8 * 3), (LUPERSON_NANO, 3 * 2 + 8 * 4)]
)
def test_pretrained_parameters_are_those_of_a_resnet(options, new):
    model = build_backbone(**options)
    names = {id(p): name for name, p in model.named_parameters()}
    beside = (".norm.", ".reductions.", ".pools.")
    rest = {name for name in names.values() if any(part in name for part in beside)}
    assert {names[id(p)] for p in model.pretrained_parameters()} == set(names.values()) - rest
    assert len(rest) == new


@HEADS
def test_pretrained_layers_can_keep_their_statistics(images, options):
    model = build_backbone(**options)
    pretrained = {id(p) for p in model.pretrained_parameters()}

    def moved():
        before = copy.deepcopy(model.state_dict())
        model(images)
        norms = [(n, m) for n, m in model.named_modules() if hasattr(m, "running_mean")]
        moved = {
            m for n, m in norms if not torch.equal(m.running_mean, before[f"{n}.running_mean"])
        }
        return moved, {m for _, m in norms}

    model.train_pretrained(False)
    found, norms = moved()
    new = {m for m in norms if id(m.weight) not in pretrained}
    assert found == new
    assert len(new) == 3 + 8
    model.train_pretrained(True)
    assert moved() == (norms, norms)


def test_a_classifier_is_refused():
    import timm

    with pytest.raises(UserError, match="num_classes: mgn_resnet_nano"):
        timm.create_model("mgn_resnet_nano", num_classes=7)
