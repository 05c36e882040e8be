"""Every kernel for GPUs, built for two kinds of GPU and two precisions; none of them is run.

A program of its own: it takes the place of Triton's driver, and of what starts a kernel. So what is
computed here is nonsense, and only whether the kernels can be built is seen.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from transreid_ssl.finetune.memory_kernels import follow_each
from transreid_ssl.models import LUPERSON, build_backbone, norm_relu, stem
from transreid_ssl.models.fold_kernels import fold_images
from transreid_ssl.models.packed_attention import packed_attention
from transreid_ssl.pretrain.cross_view_kernels import fused_cross_view
from transreid_ssl.training.scaling_kernels import scale_each


class Absent:
    """A driver of a GPU of ``capability`` (90 is 9.0) that is not there."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # what is built is remembered by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def built_only(names: set[str]) -> Iterator[None]:
    """Kernels are built, with their names put into ``names``, and not run."""
    run = JITFunction.run

    def build(self: JITFunction, *arguments: object, **options: object) -> object:
        kernel = run(self, *arguments, **options | {"warmup": True})
        assert kernel.asm["cubin"], self.__name__
        names.add(f"{self.__module__.rpartition('.')[2]}.{self.__name__}")
        return kernel

    JITFunction.run = build
    try:
        yield
    finally:
        JITFunction.run = run


def use_all(dtype: torch.dtype) -> None:
    """Call whatever starts a kernel, forward and backward, with a network in ``dtype``."""
    images = torch.randint(0, 256, (2, 3, 32, 16), dtype=torch.uint8)
    fold_images(images, LUPERSON, dtype)
    for name in ("vit_nano_patch8_ics", "vit_nano_patch8_reid"):
        embed = build_backbone(name, img_size=(32, 16)).patch_embed
        for module in (stem, norm_relu):
            module.runs_kernels = lambda x: True
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            embed(images, LUPERSON).float().sum().backward()
            embed.eval()(images, LUPERSON)
    for width, leading in ((64, 0), (64, 1)):
        qkv = torch.zeros(129 + 2 * 33, 3 * 2 * width, dtype=dtype, requires_grad=True)
        packed_attention(qkv, [1, 129, 2, 33], 2, leading)[0].sum().backward()
    student = torch.zeros(8, 4096, dtype=dtype, requires_grad=True)
    fused_cross_view(
        student, torch.zeros(4, 4096, dtype=dtype), torch.zeros(1, 4096), num_crops=4,
        num_teacher_crops=2, student_temp=0.1, teacher_temp=0.04,
    )[0].backward()  # fmt: skip
    scale_each([torch.zeros(5)], torch.ones(1))
    rows = torch.arange(4)
    follow_each(torch.zeros(2, 384), torch.zeros(4, 384), rows, rows // 2, 0.2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for capability, dtype in ((80, torch.float32), (90, torch.bfloat16)):
        driver.set_active(Absent(capability))
        names: set[str] = set()
        with built_only(names):
            use_all(dtype)
        print(capability, *sorted(names))
