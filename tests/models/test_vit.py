"""The networks against the published program's values, and against themselves."""

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import transreid_ssl  # noqa: F401  (registers the networks)
from published import inputs, shapes, state
from transreid_ssl import UserError
from transreid_ssl.models import ARCHITECTURES, build_backbone, class_attention

REFERENCE = np.load(Path(__file__).parent / "reference.npz")
NANO = "vit_nano_patch8_ics"


def relative_error(value: torch.Tensor, name: str) -> float:
    expected = torch.from_numpy(REFERENCE[name])
    return ((value - expected).norm() / expected.norm()).item()


def published(network: str, name: str, **options):
    with torch.device("meta"):  # its weights are about to be replaced
        model = build_backbone(name, **options)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == shapes(network)
    model.load_state_dict(state(network), assign=True)
    return model.eval()


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("dino_vit_small", "vit_small_patch16_reid"),
        ("dino_vit_small_ics", "vit_small_patch16_ics"),
        ("dino_vit_base_ics", "vit_base_patch16_ics"),
    ],
)
@torch.no_grad()
def test_pretraining_networks_give_the_published_features(network, name):
    model = published(network, name, position_resampling="dino")
    large, small = inputs("images", (2, 3, 256, 128)), inputs("local_images", (2, 3, 128, 64))
    assert relative_error(model(large), f"{network}/global") < 1e-5
    assert relative_error(model(small), f"{network}/local") < 1e-5


@pytest.mark.parametrize(
    ("network", "name", "options"),
    [
        ("reid_vit_small_ics", "vit_small_patch16_ics", {}),
        ("reid_vit_small_sie6", "vit_small_patch16_reid", {"num_cameras": 6, "camera_weight": 1.5}),
        ("reid_vit_small_stride12", "vit_small_patch16_reid", {"stride": 12}),
        ("reid_vit_small_gem_ics", "vit_small_patch16_ics", {"gem": True}),
    ],
)
@torch.no_grad()
def test_finetuning_networks_give_the_published_features(network, name, options):
    model = published(network, name, **options)
    cameras = torch.tensor([1, 4]) if "num_cameras" in options else None
    feature = model(inputs("images", (2, 3, 256, 128)), cameras)
    assert relative_error(feature, f"{network}/feat") < 1e-5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_timm_builds_every_network_by_name(name):
    with torch.device("meta"):  # no need to draw the weights of the large ones
        model = timm.create_model(name, img_size=(384, 128))
        features = model(torch.empty(2, 3, 384, 128))
    assert features.shape == (2, model.spec.embed_dim)
    assert model.spec.img_size == (384, 128)
    assert (model.num_classes, model.spec.name) == (0, name)


def test_vit_large_has_the_parameters_of_its_sizes():
    with torch.device("meta"):
        model = build_backbone("vit_large_patch16_reid")
    width, tokens = 1024, 16 * 8 + 1
    block = 12 * width**2 + 13 * width  # weights of attention and MLP; biases and norms
    outside = (16 * 16 * 3 + 1) * width + width + tokens * width + 2 * width
    assert sum(p.numel() for p in model.parameters()) == 24 * block + outside == 303_232_000
    assert [block.attn.num_heads for block in model.blocks] == [16] * 24


def test_timm_options_reach_the_network():
    model = timm.create_model(NANO, img_size=(64, 32), num_classes=7, gem=True, stride=6)
    assert model(torch.randn(2, 3, 64, 32)).shape == (2, 7)
    assert model.spec.gem
    assert model.spec.grid == model.patch_embed.grid_size == (10, 5)


def test_a_network_takes_images_of_any_size():
    model = build_backbone(NANO, img_size=(64, 32)).eval()
    for size in ((64, 32), (32, 16), (8, 8), (50, 70), (128, 64)):
        assert model(torch.randn(1, 3, *size)).shape == (1, 128)


def test_rows_of_patches_are_not_taken_for_columns():
    # With positions that are told apart by row alone, only height may matter.
    model = build_backbone("vit_nano_patch8_reid", img_size=(64, 32)).eval()
    rows = torch.linspace(-1, 1, 8).view(8, 1, 1).expand(8, 4, 128)
    with torch.no_grad():
        model.pos_embed[:, 1:] = rows.reshape(1, 32, 128)
        added = model._pos_embed(torch.zeros(1, 16, 2, 128))[:, 1:].view(16, 2, 128)
    torch.testing.assert_close(added[:, 0], added[:, 1])
    assert (added[1:, 0, 0] > added[:-1, 0, 0]).all()


def test_camera_embeddings_must_be_told_their_cameras():
    model = build_backbone(NANO, img_size=(64, 32), num_cameras=3).eval()
    images = torch.randn(1, 3, 64, 32).expand(3, -1, -1, -1)
    features = model(images, torch.tensor([0, 2, 2]))
    torch.testing.assert_close(features[1], features[2])
    assert not torch.allclose(features[0], features[1])
    with pytest.raises(UserError, match="needs the camera of each image"):
        model(images)


def test_every_view_of_every_camera_has_its_own_embedding():
    model = build_backbone(NANO, img_size=(64, 32), num_cameras=3, num_views=2).eval()
    assert model.sie_embed.shape == (6, 1, 128)
    assert model.spec.camera_weight == 3
    cameras, views = torch.tensor([2, 0, 2, 2]), torch.tensor([1, 1, 0, 1])
    images = torch.randn(1, 3, 64, 32).expand(4, -1, -1, -1)
    features = model(images, cameras, views)
    torch.testing.assert_close(features[0], features[3])
    assert len({round(value.item(), 5) for value in features[:3, 0]}) == 3
    # By hand: three times the row of (camera 2, view 1) is added to positions and class token.
    plain = build_backbone(NANO, img_size=(64, 32)).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "sie_embed"})
    with torch.no_grad():
        plain.pos_embed += 3 * model.sie_embed[5]
    torch.testing.assert_close(features[0], plain(images[:1])[0])
    # Who knows no views has view 0.
    torch.testing.assert_close(model(images, cameras)[2], features[2])


def test_gem_adds_the_generalised_mean_of_the_patches():
    plain, gem = (build_backbone(NANO, img_size=(64, 32), gem=g).eval() for g in (False, True))
    gem.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 32)
    tokens = plain.forward_features(images)
    for image in range(2):
        for channel in (0, 100):
            values = [max(v.item(), 1e-6) ** 3 for v in tokens[image, 1:, channel]]
            expected = tokens[image, 0, channel].item() + (sum(values) / len(values)) ** (1 / 3)
            assert gem(images)[image, channel].item() == pytest.approx(expected, abs=1e-5)


def test_feature_norm_is_a_batch_norm_over_the_feature():
    model = build_backbone(NANO, img_size=(64, 32), feature_norm=True)
    features = model(torch.randn(16, 3, 64, 32))
    torch.testing.assert_close(features.mean(0), torch.zeros(128), atol=1e-5, rtol=0)
    assert not model.bottleneck.bias.requires_grad


def test_class_attention_is_that_of_the_last_block():
    model = build_backbone(NANO, img_size=(64, 32)).eval()
    images = torch.randn(2, 3, 48, 32)
    maps = class_attention(model, images)
    assert maps.shape == (2, 4, 6, 4)
    attention, seen = model.blocks[-1].attn, []
    attention.fused_attn = False  # then timm computes the whole matrix, where it can be seen
    hook = attention.attn_drop.register_forward_hook(lambda *call: seen.append(call[2]))
    model(images)
    hook.remove()
    torch.testing.assert_close(maps.flatten(2), seen[0][:, :, 0, 1:])


def test_gradient_checkpointing_changes_nothing():
    model = build_backbone(NANO, img_size=(64, 32))
    images = torch.randn(4, 3, 64, 32)
    gradients = []
    for enable in (False, True):
        twin = copy.deepcopy(model)
        twin.set_grad_checkpointing(enable)
        twin(images).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in twin.parameters()]))
    torch.testing.assert_close(*gradients)


def test_stochastic_depth_grows_with_depth_and_is_off_in_evaluation():
    model = build_backbone(NANO, img_size=(64, 32), drop_path=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    model.eval()
    images = torch.randn(1, 3, 64, 32)
    assert torch.equal(model(images), model(images))


def test_set_input_size_resamples_once_and_tells_the_spec():
    model = build_backbone("vit_nano_patch8_reid", img_size=(64, 32)).eval()
    images = torch.randn(1, 3, 96, 32)
    before = model(images)
    model.set_input_size((96, 32))
    assert model.spec.grid == (12, 4)
    assert model.pos_embed.shape == (1, 49, 128)
    torch.testing.assert_close(model(images), before)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "vit_huge"}, "vit_huge.*choose one that"),
        ({"img_size": (4, 4)}, "img_size"),
        ({"stride": 5}, "stride 5.*even"),
        ({"stride": 9}, "stride 9.*1 to 8"),
        ({"position_resampling": "nearest"}, "antialias, dino, bilinear"),
        ({"std": (0.5, 0.0, 0.5)}, "std"),
        ({"num_views": 8}, "num_views 8: .*give num_cameras 1"),
    ],
)
def test_impossible_networks_are_refused_in_one_line(options, complaint):
    with pytest.raises(UserError, match=complaint):
        build_backbone(**{"name": NANO, **options})
