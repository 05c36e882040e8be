import dataclasses

import cv2
import numpy as np
import pytest
import torch

from transreid_ssl.data import FilesPool
from transreid_ssl.models import HALF, build_backbone, save_backbone


@pytest.fixture
def pool(tmp_path):
    """Eleven small images on disk; make_corrupt spoils some."""
    folder = tmp_path / "crops"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{i:02d}.png" for i in range(11)]
    for i, name in enumerate(names):
        colour = rng.integers(0, 255, 3)
        noise = rng.integers(0, 60, (40, 20, 3))
        cv2.imwrite(str(folder / name), np.clip(colour + (i + 1) * noise // 12, 0, 255))
    return FilesPool(str(folder), folder, names)


@pytest.fixture
def make_corrupt(pool, tmp_path):
    def spoil(*indices):
        for index in indices:
            path = tmp_path / "crops" / pool.names[index]
            path.write_bytes(path.read_bytes()[:40])

    return spoil


@pytest.fixture
def weights(tmp_path):
    """Paths of a tiny backbone before and after; the second has other statistics."""
    torch.manual_seed(0)
    before = build_backbone("vit_nano_patch8_ics", img_size=(32, 16), objective="dino")
    after = build_backbone("vit_nano_patch8_ics", img_size=(32, 16), mean=HALF.mean, std=HALF.std)
    state = {
        k: v + 0.1 * torch.randn(v.shape) for k, v in before.state_dict().items() if v.ndim > 1
    }
    after.load_state_dict({**before.state_dict(), **state})
    paths = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    spec = dataclasses.replace(before.spec, provenance={"pool": str(tmp_path / "crops")})
    save_backbone(paths[0], before, spec)
    save_backbone(paths[1], after)
    return paths
