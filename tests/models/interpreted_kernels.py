"""The kernels for GPUs in float32 beside plain PyTorch in float64, run by Triton's interpreter.

A program of its own: Triton reads TRITON_INTERPRET when it is imported.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from transreid_ssl.finetune.memory import move_to_each
from transreid_ssl.finetune.memory_kernels import follow_each
from transreid_ssl.models import (
    IMAGENET,
    LUPERSON,
    BlockNorm,
    build_backbone,
    norm_relu,
    normalise,
    stem,
)
from transreid_ssl.models.fold_kernels import fold_images
from transreid_ssl.models.fused_norm import fused_norm_relu
from transreid_ssl.models.ibn import IBN
from transreid_ssl.models.packed_attention import packed_attention
from transreid_ssl.models.stem import folded, folded_convolution
from transreid_ssl.pretrain.cross_view_kernels import fused_cross_view
from transreid_ssl.pretrain.dino import DINOLoss
from transreid_ssl.training.scaling_kernels import STRETCH, scale_each


def same(found: Tensor, expected: Tensor, tolerance: float = 2e-6) -> None:
    """Equal to float32's precision: the norm of the difference over that of what is expected."""
    apart = (found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-9)
    assert apart < tolerance, f"{apart:.1e} apart"


def stems() -> None:
    """The whole way of an image into the network, forward and backward, with its statistics."""
    for name in ("vit_nano_patch8_ics", "vit_nano_patch8_reid"):
        for size in ((32, 16), (26, 18), (33, 17)):
            plain = build_backbone(name, img_size=(32, 16)).patch_embed
            fused = copy.deepcopy(plain)
            images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
            expected = plain.double()(normalise(images, *IMAGENET).double())
            gradient = torch.randn_like(expected)
            expected.backward(gradient)
            for module in (stem, norm_relu):
                module.runs_kernels = lambda x: True
            found = fused(images, IMAGENET)
            found.backward(gradient.float())
            fused.eval()
            evaluated = fused(images, IMAGENET)
            for module in (stem, norm_relu):
                module.runs_kernels = lambda x: False
            same(found, expected)
            same(evaluated, plain.eval()(normalise(images, *IMAGENET).double()))
            for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
                same(ours.grad, theirs.grad)
            for ours, theirs in zip(fused.buffers(), plain.buffers(), strict=True):
                same(ours, theirs)


def memory() -> None:
    """A stem keeps the output of each convolution and the folded images, and no more."""
    embed = build_backbone("vit_nano_patch8_ics", img_size=(64, 32)).patch_embed
    images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    held = []
    for kernels in (False, True):
        kept = {}

        def note(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        for module in (stem, norm_relu):
            module.runs_kernels = lambda x, kernels=kernels: kernels
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            rows = embed(images, IMAGENET)
        weights = {parameter.data_ptr() for parameter in embed.parameters()}
        held.append(sum(size for place, size in kept.items() if place not in weights))
        rows.sum().backward()
    for module in (stem, norm_relu):
        module.runs_kernels = lambda x: False
    one_map = 2 * 32 * 16 * embed.conv[0].out_channels * 4
    folded_images = 2 * 16 * (32 + 3) * (16 + 3) * 4
    assert held[1] < 1.15 * (3 * one_map + folded_images), held
    assert held[1] < 0.55 * held[0], held  # of the same stem in PyTorch


class Maps(TorchDispatchMode):
    """Notes what convolutions get, forward and backward, and every copy of maps."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images
        self.channels_last: list[bool] = []
        self.copies: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.name().removeprefix("aten::")
        maps = [a for a in arguments if isinstance(a, Tensor) and a.ndim == 4]
        if name in ("convolution", "convolution_backward"):
            self.channels_last += [
                a.is_contiguous(memory_format=torch.channels_last)
                for a in maps[:-1]  # the last is the weight
            ]
        elif name in ("clone", "copy_", "_to_copy") and maps and len(maps[0]) == self.images:
            self.copies.append(name)
        return function(*arguments, **(options or {}))


def layouts() -> None:
    """From the images to the rows that blocks get, forward and backward, no map changes its
    layout: all are channels last."""
    embed = build_backbone("vit_nano_patch8_ics", img_size=(64, 32)).patch_embed
    images = torch.randint(0, 256, (5, 3, 64, 32), dtype=torch.uint8)
    for module in (stem, norm_relu):
        module.runs_kernels = lambda x: True
    with Maps(len(images)) as seen:
        rows = embed(images, IMAGENET)
        rows.backward(torch.ones_like(rows))
    for module in (stem, norm_relu):
        module.runs_kernels = lambda x: False
    assert seen.channels_last == [True] * (3 + 3 * 2)  # three convolutions, forward and backward
    assert not seen.copies, seen.copies
    assert rows.is_contiguous()


def norms() -> None:
    """Which images share statistics, and whether they are found or remembered."""
    for make in (lambda: IBN(10), lambda: nn.BatchNorm2d(10)):
        for blocks, frozen in ((False, False), (True, False), (False, True)):
            plain = make()
            for parameter in plain.parameters():
                nn.init.normal_(parameter)
            batch_norm = plain.BN if isinstance(plain, IBN) else plain
            if blocks and batch_norm is plain:
                plain = BlockNorm(plain, images=2, blocks=3)
            elif blocks:
                plain.BN = BlockNorm(plain.BN, images=2, blocks=3)
            if frozen:
                batch_norm.eval().running_mean.normal_()
            fused, x = copy.deepcopy(plain), torch.randn(6, 10, 5, 3) * 3 + 1
            gradient, found = torch.randn_like(x), []
            for norm, way, kind in (
                (plain.double(), lambda x, norm, layer: layer(F.relu(norm(x))), torch.float64),
                (fused, fused_norm_relu, torch.float32),
            ):
                given = x.to(kind, copy=True).requires_grad_()
                output = way(given, norm, nn.Identity())
                output.backward(gradient.to(kind))
                weights = [parameter.grad for parameter in norm.parameters()]
                found.append([output.detach(), given.grad, *weights, *norm.buffers()])
            for theirs, ours in zip(*found, strict=True):
                same(ours, theirs, 5e-6)


def far_means() -> None:
    norm, x = nn.BatchNorm2d(10), torch.randn(4, 10, 9, 9) + 1000
    expected = F.relu(copy.deepcopy(norm).double()(x.double()))
    same(fused_norm_relu(x, norm, nn.Identity()), expected, 1e-3)


def foldings() -> None:
    for channels, height, width in ((3, 32, 16), (3, 38, 18), (1, 8, 8)):
        images = torch.randn(2, channels, height, width, dtype=torch.float64)
        convolution = nn.Conv2d(channels, 5, 7, 2, 3, bias=False).double()
        expected = convolution(images)
        same(folded_convolution(folded(images), convolution.weight), expected, 1e-12)
    for layout in (torch.contiguous_format, torch.channels_last):
        images = torch.randint(0, 256, (2, 3, 20, 140), dtype=torch.uint8)
        images = images.contiguous(memory_format=layout)[..., ::2]
        expected = folded(normalise(images, *LUPERSON))
        same(fold_images(images, LUPERSON, torch.float32), expected)


def attentions() -> None:
    sizes = ((1, 129), (2, 33), (1, 64))
    flat = [number for size in sizes for number in size]
    rows = sum(math.prod(size) for size in sizes)
    for heads, width, leading in ((2, 16, 0), (1, 32, 3)):
        qkv = torch.randn(rows, 3 * heads * width, requires_grad=True)
        found, _ = packed_attention(qkv, flat, heads, leading)
        gradient = torch.randn_like(found)
        found.backward(gradient)
        precise = qkv.detach().double().requires_grad_()
        expected, parts = [], precise.split([math.prod(size) for size in sizes])
        for part, size in zip(parts, sizes, strict=True):
            part = part.unflatten(0, size).unflatten(-1, (3, heads, width))
            queries, keys, values = part.permute(2, 0, 3, 1, 4).unbind(0)
            queries = queries[:, :, : leading or None]
            seen = F.scaled_dot_product_attention(queries, keys, values)
            expected.append(seen.transpose(1, 2).flatten(2).flatten(0, 1))
        expected = torch.cat(expected)
        expected.backward(gradient.double())
        same(found, expected)
        same(qkv.grad, precise.grad)


def losses() -> None:
    for outputs, views, teacher_views, images in (
        (300, 4, 2, 3),
        (4096, 10, 2, 2),
        (5000, 3, 1, 2),
    ):
        loss = DINOLoss(outputs, views, num_teacher_crops=teacher_views)
        loss.center.normal_(0, 0.1)
        student = torch.randn(views * images, outputs, requires_grad=True)
        teacher = torch.randn(teacher_views * images, outputs) * 0.3
        expected = copy.deepcopy(loss).double().with_entropy(student.double(), teacher.double(), 3)
        expected[0].backward()
        again = student.detach().clone().requires_grad_()
        found = fused_cross_view(
            again, teacher, loss.center, num_crops=views, num_teacher_crops=teacher_views,
            student_temp=0.1, teacher_temp=0.04,
        )  # fmt: skip
        found[0].backward()
        same(found[0], expected[0])
        assert (found[1] - expected[1]).abs() < 1e-4  # nats
        same(again.grad, student.grad, 1e-5)


def scalings() -> None:
    """Gradients of every size and layout, each by its own number, in place and nothing beside."""
    shapes = ((3,), (STRETCH,), (2, STRETCH), (STRETCH + 1,), (), (0, 4), (4, 3, 5, 7))
    whole = [torch.randn(math.prod(shape) + 2) for shape in shapes]  # a number before and after
    given = [numbers[1:-1].view(shape) for numbers, shape in zip(whole, shapes, strict=True)]
    given[-1] = given[-1].view(4, 5, 7, 3).permute(0, 3, 1, 2)  # channels last
    scales = torch.tensor([0.5, 1.0, 0.3, 1e-7, 0.9, 0.2, 0.7])
    expected = [tensor * scale for tensor, scale in zip(given, scales, strict=True)]
    borders = [numbers[[0, -1]] for numbers in whole]
    for _ in range(2):  # what is remembered of the sizes serves other tensors of such sizes
        again = [tensor.clone() for tensor in given]
        scale_each(again, scales)
        for ours, theirs in zip(again, expected, strict=True):
            assert torch.equal(ours, theirs)
    scale_each(given, scales)
    for numbers, border in zip(whole, borders, strict=True):
        assert torch.equal(numbers[[0, -1]], border)


def clusters() -> None:
    """Vectors that follow their images: of many in one cluster, of one, and of none."""
    for dim, labels in ((5, [3, 0, 3, 3, 1, 0, 3]), (64, [2, 2, 2]), (33, [7])):
        vectors = F.normalize(torch.randn(8, dim), dim=1)
        images = F.normalize(torch.randn(len(labels), dim), dim=1)
        owners = torch.tensor(labels)
        expected = vectors.double()
        move_to_each(expected, images.double(), owners, 0.2)
        order = owners.argsort(stable=True)
        follow_each(vectors, images, order, owners[order], 0.2)
        same(vectors, expected)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    checks = stems, memory, layouts, norms, far_means, foldings, attentions, losses, scalings
    for check in (*checks, clusters):
        check()
        print(check.__name__)
