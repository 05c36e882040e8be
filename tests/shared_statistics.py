"""What the processes of a test of shared statistics run: importable by name, as new ones need."""

import math
import os

import torch
import torch.distributed as dist

from transreid_ssl.models import build_backbone
from transreid_ssl.pretrain import DINOConfig
from transreid_ssl.pretrain.masked_patches import Masked, MaskedPatches
from transreid_ssl.pretrain.sinkhorn import sinkhorn


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_sinkhorn(scores):
    """SwAV, appendix A: columns to 1 / K, rows to 1 / B, three times; rows sum to one at last."""
    matrix = [[math.exp(value) for value in row] for row in scores]
    number, outputs = len(matrix), len(matrix[0])
    for _ in range(3):
        for k in range(outputs):
            total = sum(row[k] for row in matrix)
            for row in matrix:
                row[k] /= total * outputs
        for row in matrix:
            total = sum(row)
            row[:] = [value / total / number for value in row]
    return [[value * number for value in row] for row in matrix]


def check_two_processes(rank, port):
    """Statistics of two processes with 5 and 3 images (6 and 0 patches) are those of all 8 (6)."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    scores = 3 * normal(8, 4)
    mine = slice(0, 5) if rank == 0 else slice(5, 8)
    expected = torch.tensor(slow_sinkhorn(scores.tolist()))[mine]
    torch.testing.assert_close(sinkhorn(scores[mine]).exp(), expected.float())
    masked = MaskedPatches(
        build_backbone("vit_nano_patch8_reid", img_size=(32, 16)), DINOConfig(masked_patches=0.3), 4
    )
    logits = normal(6, 4)[: 6 if rank == 0 else 0]
    number = len(logits)
    given = Masked(torch.arange(number), torch.full((number,), 0.1))
    masked(logits, logits, given, 0.04)
    masked.update_center()
    torch.testing.assert_close(masked.center, 0.1 * normal(6, 4).mean(dim=0, keepdim=True))
    masked(logits[:0], logits[:0], Masked(given.chosen[:0], given.weights[:0]), 0.04)
    before = masked.center.clone()
    masked.update_center()
    assert torch.equal(masked.center, before)
    dist.destroy_process_group()
