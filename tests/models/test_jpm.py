"""The jigsaw patch module against a slow loop, and its weights as they are published."""

import pytest
import timm
import torch
from torch.nn import functional as F

from layouts import prefixed
from transreid_ssl import UserError, export
from transreid_ssl.models import (
    HALF,
    build_backbone,
    class_attention,
    load_backbone,
    load_weights,
    normalise,
    save_backbone,
    split_branches,
)
from transreid_ssl.models.jpm import shift_and_shuffle

NANO = {"name": "vit_nano_patch8_ics", "img_size": (64, 32)}
JPM = NANO | {"jpm": True}


@pytest.fixture
def model():
    """With other weights in the second copy of the last block than in the first."""
    network = build_backbone(**JPM)
    with torch.no_grad():
        for value in network.b2.parameters():
            value += 0.1 * torch.randn_like(value)
    return network.eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 32)


@pytest.mark.parametrize(
    ("number", "shift", "expected"),
    [
        (8, 1, [0, 4, 1, 5, 2, 6, 3, 7]),
        (8, 3, [2, 6, 3, 7, 4, 0, 5, 1]),
        (5, 2, [1, 4, 2, 0, 3, 4]),  # 1 2 3 4 0, and the last but one again
    ],
)
def test_patches_are_shifted_then_dealt_to_two_groups(number, shift, expected):
    patches = torch.arange(number).view(1, number, 1).expand(3, -1, 2)
    assert shift_and_shuffle(patches, shift)[2, :, 1].tolist() == expected


def test_the_feature_is_that_of_a_slow_loop(model, images):
    assert model(images).shape == (2, model.spec.embed_dim) == (2, 640)
    tokens = model._embed(images, None, None)
    for block in model.blocks[:3]:
        tokens = block(tokens)
    for image in range(2):
        token, patches = tokens[image, :1], tokens[image, 1:]
        order = [(4 + i) % 32 for i in range(32)]  # five tokens, the class token among them
        order = [order[half + i] for i in range(16) for half in (0, 16)]
        parts = [order[8 * part : 8 * part + 8] for part in range(4)]
        expected = [model.norm(model.blocks[3](tokens[image : image + 1]))[0, 0]]
        for part in parts:
            whole = torch.cat([token, *(patches[i : i + 1] for i in part)])[None]
            expected.append(model.b2(whole)[0, 0] / 4)
        torch.testing.assert_close(model(images)[image], torch.cat(expected))


def test_losses_see_each_branch_at_its_own_scale(model, images):
    feature = model(images)
    whole, *parts = split_branches(feature, model.spec)
    assert torch.equal(whole, feature[:, :128])
    assert torch.equal(parts[3], 4 * feature[:, 512:])
    plain = build_backbone(**NANO)
    assert split_branches(feature, plain.spec) == [feature]


def test_with_a_feature_norm_each_branch_has_its_own():
    model = build_backbone(**JPM, feature_norm=True)
    branches = model(torch.randn(16, 3, 64, 32)).unflatten(1, (5, 128))
    torch.testing.assert_close(branches.mean(0), torch.zeros(5, 128), atol=1e-5, rtol=0)
    spread = branches.std(0, correction=0).mean(1)
    torch.testing.assert_close(spread, torch.tensor([1, *[0.25] * 4]), atol=0.01, rtol=0)


def test_all_of_it_learns_and_checkpointing_changes_nothing(model, images):
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients)


def test_what_asks_a_vit_for_more_gets_it(model, images):
    feature, cells = model.forward_with_map(images)
    assert torch.equal(feature, model(images))
    assert cells.shape == (2, 128, 8, 4)
    assert class_attention(model, images).shape == (2, 4, 8, 4)
    classifier = timm.create_model(**{"model_name": JPM["name"], "num_classes": 7, "jpm": True})
    assert classifier(images).shape == (2, 7)


def published(model, prefix=""):
    """The weights as TransReID saves them, with those that it does not use any more."""
    last, state = f"blocks.{len(model.blocks) - 1}.", {}
    for name, value in model.state_dict().items():
        if name.startswith(last):
            state["b1.0." + name.removeprefix(last)] = value
            state["base." + name] = torch.full_like(value, 9)
        elif name.startswith("norm."):
            state["b1.1." + name.removeprefix("norm.")] = value
            state["base." + name] = torch.full_like(value, 9)
        else:
            state[name if name.startswith("b2.") else "base." + name] = value
    # The authors' order: first the network, then its branches.
    state = dict(sorted(state.items(), key=lambda item: not item[0].startswith("base.")))
    for branch in ("", "_1", "_2", "_3", "_4"):
        neck = {"weight": 2.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        state |= {f"bottleneck{branch}.{name}": torch.full((128,), x) for name, x in neck.items()}
        state[f"classifier{branch}.weight"] = torch.zeros(5, 128)
    return prefixed(prefix, state)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_weights_give_the_feature_before_their_necks(tmp_path, model, images, prefix):
    torch.save(published(model, prefix), tmp_path / "transformer_120.pth")
    loaded = load_backbone(tmp_path / "transformer_120.pth")
    assert torch.equal(loaded(images), model(images))
    assert (loaded.spec.jpm, loaded.spec.mean, loaded.spec.jpm_shift) == (True, HALF.mean, 5)
    report = loaded.load_report
    assert report.missing == report.unexpected == ()
    unused = {f"{prefix}base.blocks.3.attn.qkv.weight", f"{prefix}base.norm.weight"}
    assert unused | {f"{prefix}classifier_4.weight", "bottleneck_4.weight"} < set(report.dropped)
    after = load_backbone(tmp_path / "transformer_120.pth", feature_norm=True)
    torch.testing.assert_close(after(images), 2 * model(images), rtol=1e-4, atol=1e-4)


def test_weights_of_a_plain_vit_start_both_copies_of_its_last_block(tmp_path, images):
    plain = build_backbone(**NANO).eval()
    save_backbone(tmp_path / "b.safetensors", plain)
    model = build_backbone(**JPM).eval()
    report = load_weights(model, tmp_path / "b.safetensors")
    assert report.missing == report.unexpected == ()
    torch.testing.assert_close(model(images)[:, :128], plain(images))
    for name, value in model.b2[0].state_dict().items():
        assert torch.equal(value, plain.blocks[3].state_dict()[name])
    assert torch.equal(model.b2[1].weight, plain.norm.weight)


def test_saved_and_exported_features_are_equal(tmp_path, model, images):
    path = tmp_path / "b.safetensors"
    save_backbone(path, model)
    loaded = load_backbone(path)
    assert loaded.spec == model.spec
    assert torch.equal(loaded(images), model(images))
    export.export(path, tmp_path / "b.pt2")
    program = torch.export.load(tmp_path / "b.pt2").module()
    pixels = torch.randint(0, 256, (3, 3, 64, 32), dtype=torch.uint8)
    expected = model(normalise(pixels, model.spec.mean, model.spec.std))
    torch.testing.assert_close(program(pixels), F.normalize(expected, dim=1))


def test_a_plain_vit_does_not_take_half_of_a_jpm(tmp_path, model):
    save_backbone(tmp_path / "b.safetensors", model)
    with pytest.raises(UserError, match=r"no place for \(b2\."):
        load_weights(build_backbone(**NANO), tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "resnet_nano_reid"}, "jpm: resnet_nano_reid has no tokens"),
        ({"img_size": (8, 24)}, "jpm: 3 patches are too few for 4 branches"),
        ({"jpm_shift": 0}, "jpm_shift is 0"),
    ],
)
def test_impossible_modules_are_refused_in_one_line(options, complaint):
    with pytest.raises(UserError, match=complaint):
        build_backbone(**{**JPM, **options})
