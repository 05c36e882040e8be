"""DINO with a network of 32x16 pixels and a head of 16 outputs, and what it is given."""

import torch

from transreid_ssl.models import build_backbone
from transreid_ssl.pretrain import DINO, DINOConfig

HEAD = {"out_dim": 16, "hidden_dim": 8, "bottleneck_dim": 8}


def build_dino(**config):
    """Student and teacher of one seed, for ``batch()``."""
    torch.manual_seed(0)
    networks = [build_backbone("vit_nano_patch8_ics", img_size=(32, 16)) for _ in range(2)]
    return DINO(*networks, DINOConfig(**HEAD | config), num_crops=4)


def batch(images=3, large=2, small=2):
    """A batch of large and small views of so many images, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(large, 32, 16), (small, 16, 8)]
    return {
        "views": [
            torch.randint(0, 256, (n * images, 3, h, w), dtype=torch.uint8, generator=generator)
            for n, h, w in sizes
        ]
    }
