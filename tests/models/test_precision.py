"""Forward and backward passes in every precision on a CPU: the same numbers twice, and finite."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from transreid_ssl.models import build_backbone
from transreid_ssl.models.convolution import Convolution

NETWORKS = {
    "vit": ("vit_nano_patch8_reid", {}),
    "overlapping patches": ("vit_nano_patch8_reid", {"stride": 4, "gem": True}),
    "cameras": ("vit_nano_patch8_reid", {"num_cameras": 3}),
    "ics": ("vit_nano_patch8_ics", {"feature_norm": True}),
    "batch norm stem": ("vit_nano_patch16_conv", {}),
    "jigsaw": ("vit_nano_patch8_ics", {"jpm": True}),
    "part tokens": ("vit_nano_patch16_pass", {}),
    "resnet": ("resnet_nano_reid", {}),
    "resnet of stride 16": ("resnet_nano_reid", {"stride": 16, "gem": True}),
    "mgn": ("mgn_resnet_nano", {}),
    "luperson mgn": ("mgn_resnet_nano_luperson", {}),
}
PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SIZE = (48, 16)  # a ResNet's maps shrink to one column


def poison():
    """Let memory that the allocator gives out again hold NaN: who reads it unwritten shows it."""
    freed = [torch.full((2**power,), torch.nan) for power in range(4, 22) for _ in range(4)]
    del freed


def passed(model, images, precision):
    """The loss and all gradients of one step, after memory was poisoned."""
    model.zero_grad()
    cameras = torch.arange(len(images)) % 3 if model.spec.num_cameras else None
    poison()
    dtype = PRECISIONS[precision]
    with torch.autocast("cpu", dtype=dtype) if dtype else nullcontext():
        torch.manual_seed(0)
        loss = model(images, cameras).float().square().mean()
    poison()
    loss.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert gradients
    return [loss.detach(), *gradients]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_two_passes_are_equal_and_finite(kind, precision):
    name, options = NETWORKS[kind]
    model = build_backbone(name, img_size=SIZE, **options)
    images = torch.randint(0, 256, (8, 3, *SIZE), dtype=torch.uint8)
    first, *others = (passed(model, images, precision) for _ in range(3))
    for other in others:
        for one, again in zip(first, other, strict=True):
            assert one.isfinite().all()
            assert torch.equal(one, again)


@pytest.mark.parametrize("name", ["resnet_nano_reid", "mgn_resnet_nano", "vit_nano_patch8_ics"])
def test_convolutions_of_narrow_maps_alone_are_in_float32(name):
    model = build_backbone(name, img_size=SIZE)
    seen = []

    def note(layer, inputs, output):
        seen.append((min(inputs[0].shape[-2:]) < max(2, *layer.kernel_size), output.dtype))

    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        assert isinstance(layer, Convolution)
        layer.register_forward_hook(note)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randint(0, 256, (4, 3, *SIZE), dtype=torch.uint8))
    rows = "vit" in name  # its patches are rows of a product of matrices
    assert len(seen) == len(convolutions) - rows
    for narrow, dtype in seen:
        assert dtype == (torch.float32 if narrow else torch.bfloat16)
    assert any(narrow for narrow, _ in seen) == ("resnet" in name)


@pytest.mark.parametrize("size", [(3, 1), (1, 3), (2, 2), (1, 1), (6, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (1, 2)])
def test_a_narrow_convolution_under_autocast_is_the_float32_one(size, kernel, stride):
    layer = Convolution(8, 8, kernel, stride, kernel // 2)
    results = []
    for enabled in (False, True):
        images = torch.randn(4, 8, *size, generator=torch.Generator().manual_seed(0))
        images.requires_grad_()
        layer.zero_grad()
        poison()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            result = layer(images)
        result.float().square().sum().backward()
        results.append([result, images.grad, layer.weight.grad.clone(), layer.bias.grad.clone()])
    tolerance = 0 if min(size) < max(2, kernel) else 0.1
    for plain, mixed in zip(*results, strict=True):
        torch.testing.assert_close(mixed.float(), plain, rtol=tolerance, atol=tolerance)
