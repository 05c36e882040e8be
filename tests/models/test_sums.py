"""What is computed in a faster order is what it always was."""

import pytest
import torch

from transreid_ssl.models import build_backbone
from transreid_ssl.models.stem import PatchEmbedding

SIZE = (64, 32)
NETWORKS = {
    "ibn stem": ("vit_nano_patch8_ics", {"feature_norm": True}),
    "batch norm stem": ("vit_nano_patch16_conv", {}),
    "plain patches": ("vit_nano_patch8_reid", {}),
    "overlapping patches": ("vit_nano_patch8_reid", {"stride": 4}),
    "generalised mean": ("vit_nano_patch8_ics", {"gem": True}),
    "jigsaw": ("vit_nano_patch8_ics", {"jpm": True}),
    "part tokens": ("vit_nano_patch16_pass", {}),
    "ibn resnet": ("resnet50_ibn_reid", {}),
}


def passed(model, images):
    """The features of a training step, and all gradients."""
    model.zero_grad()
    torch.manual_seed(0)  # the jigsaw shuffles
    features = model(images)
    features.square().mean().backward()
    return [features.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_faster_order_gives_the_same_features_and_gradients(kind, monkeypatch):
    name, options = NETWORKS[kind]
    model = build_backbone(name, img_size=SIZE, **options).double()
    images = torch.randn(4, 3, *SIZE, dtype=torch.float64)
    plain = passed(model, images)
    asked = []
    for module in ("ibn", "stem", "vit"):
        path = f"transreid_ssl.models.{module}.keeps_order"
        monkeypatch.setattr(path, lambda device, module=module: asked.append(module))
    for one, other in zip(plain, passed(model, images), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-10)
    assert asked


def test_in_float32_on_a_cpu_all_tokens_leave_the_last_block(monkeypatch):
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
