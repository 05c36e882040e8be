"""What is computed in a faster order is what it always was."""

import pytest
import torch

from transreid_ssl.models import build_backbone
from transreid_ssl.models.ibn import IBN
from transreid_ssl.models.stem import PatchEmbedding

SIZE = (64, 32)
NETWORKS = {
    "ibn stem": ("vit_nano_patch8_ics", {"feature_norm": True}, "ibn stem vit"),
    "batch norm stem": ("vit_nano_patch16_conv", {}, "stem vit"),
    "plain patches": ("vit_nano_patch8_reid", {}, "stem vit"),
    "overlapping patches": ("vit_nano_patch8_reid", {"stride": 4}, "stem vit"),
    "generalised mean": ("vit_nano_patch8_ics", {"gem": True}, "ibn stem"),
    "jigsaw": ("vit_nano_patch8_ics", {"jpm": True}, "ibn stem vit"),
    "part tokens": ("vit_nano_patch16_pass", {}, "stem vit"),
    "ibn resnet": ("resnet50_ibn_reid", {}, "ibn"),
}


@pytest.fixture
def take_faster_order(monkeypatch):
    """Call it, and from then on sums have the faster order: gives the modules that have asked."""

    def take():
        asked = set()
        for module in ("ibn", "stem", "vit"):
            path = f"transreid_ssl.models.{module}.keeps_order"
            monkeypatch.setattr(path, lambda device, module=module: asked.add(module))
        return asked

    return take


def passed(model, images):
    """The features of a training step, and all gradients."""
    model.zero_grad()
    features = model(images)
    features.square().mean().backward()
    return [features.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_faster_order_gives_the_same_features_and_gradients(kind, take_faster_order):
    name, options, asks = NETWORKS[kind]
    model = build_backbone(name, img_size=SIZE, **options).double()
    images = torch.randn(4, 3, *SIZE, dtype=torch.float64)
    plain = passed(model, images)
    asked = take_faster_order()
    for one, other in zip(plain, passed(model, images), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-10)
    assert asked == set(asks.split())


@pytest.mark.parametrize("side", [(16, 16), (32, 16)])
def test_areas_of_a_patch_or_two_have_their_tokens(side, take_faster_order):
    """A crop of one patch has fewer tokens than the large images have leading ones."""
    model = build_backbone("vit_nano_patch16_pass", img_size=SIZE).double().eval()
    large = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    small = torch.randn(2 * (model.num_prefix_tokens - 1), 3, *side, dtype=torch.float64)
    plain = model.forward_areas(large, small)
    take_faster_order()
    for one, other in zip(plain, model.forward_areas(large, small), strict=True):
        torch.testing.assert_close(other, one)


def test_the_gradients_of_ibns_halves_are_maps_of_their_own():
    norms, seen = IBN(8), []
    for norm in (norms.IN, norms.BN):
        norm.register_full_backward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.autocast("cpu", torch.bfloat16):
        norms(torch.randn(2, 8, 4, 4, requires_grad=True)).square().sum().backward()
    assert [gradient.is_contiguous() for gradient in seen] == [True, True]


def test_in_float32_on_a_cpu_all_tokens_leave_the_last_block():
    """So that losses are, to the bit, those of runs that were begun earlier."""
    model, seen = build_backbone("vit_nano_patch8_ics", img_size=SIZE), []
    model.blocks[-1].mlp.register_forward_hook(lambda _, tokens, out: seen.append(len(out)))
    images = torch.randint(0, 256, (4, 3, *SIZE), dtype=torch.uint8)
    model(images)
    with torch.autocast("cpu", torch.bfloat16):
        model(images)
    assert seen == [4 * (1 + 8 * 4), 4]


@pytest.mark.parametrize(("size", "stride"), [((64, 32), 8), ((60, 32), 8), ((64, 32), 4)])
def test_patches_are_rows_where_they_fit(size, stride):
    """Others, which overlap or leave something out, stay convolutions."""
    embedding = PatchEmbedding(size, 8, embed_dim=16, stride=stride)
    called = []
    embedding.proj.register_forward_hook(lambda *_: called.append(1))
    images = torch.randn(2, 3, *size)
    expected = embedding(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = embedding(images)
    fits = stride == 8 and not size[0] % 8
    assert len(called) == (1 if fits else 2)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
