"""Embedding: order, mirror images, broken images, processes, and a network left as it was found."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import launch
from transreid_ssl import UserError
from transreid_ssl.data import Pool
from transreid_ssl.models import BackboneSpec, build_backbone, save_backbone
from transreid_ssl.retrieval import colour_histogram, embed_batches, embed_images


class LeftColumn(nn.Module):
    """Features that tell left from right, with a dropout that evaluation mode must silence."""

    spec = BackboneSpec("vit_nano_patch8_reid", img_size=(16, 8))

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(3).eval()

    def forward(self, images, cameras=None):
        assert images.dtype == torch.uint8
        features = self.drop(images[:, :, :, 0].float().mean(2))  # (B, 3)
        features = features if cameras is None else features + 100 * cameras[:, None]
        return nn.functional.pad(features, (0, self.spec.embed_dim - 3))


class Arrays(Pool):
    """Images in memory, uint8 (N, 3, H, W); those at ``broken`` cannot be read."""

    def __init__(self, images, broken=()):
        super().__init__("memory", [f"{i}.png" for i in range(len(images))])
        self.images, self.broken = images, broken

    def read(self, index):
        if index in self.broken:
            return b"not an image"
        image = self.images[index].permute(1, 2, 0).numpy()[..., ::-1]
        return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture
def images():
    return torch.randint(0, 256, (7, 3, 16, 8), dtype=torch.uint8)


def columns(images, place=0):
    return images[:, :, :, place].float().mean(2)


def unit(features):
    return nn.functional.normalize(features, dim=1)


def test_values_order_and_mode(images):
    model = LeftColumn().train()
    model.frozen.eval()
    features, index = embed_images(model, Arrays(images), batch_size=3)
    torch.testing.assert_close(features[:, :3], unit(columns(images)))
    assert index.tolist() == list(range(7))
    assert model.training
    assert model.drop.training
    assert not model.frozen.training
    features.requires_grad_()  # an ordinary tensor, of use to what comes after


def test_mirror_images_are_added_before_scaling(images):
    features, _ = embed_images(LeftColumn(), Arrays(images), flip=True)
    torch.testing.assert_close(features[:, :3], unit(columns(images) + columns(images, -1)))


def test_batches_keep_their_index(images):
    seen = list(embed_batches(LeftColumn(), Arrays(images), batch_size=2))
    assert [index.tolist() for index, _ in seen] == [[0, 1], [2, 3], [4, 5], [6]]
    torch.testing.assert_close(seen[1][1][:, :3], unit(columns(images))[2:4])


def test_shares_are_whole_batches_in_turn(images):
    shares = [
        [index.tolist() for index, _ in embed_batches(LeftColumn(), Arrays(images), **share)]
        for share in ({"batch_size": 2, "share": (i, 3)} for i in range(3))
    ]
    assert shares == [[[0, 1], [6]], [[2, 3]], [[4, 5]]]
    assert not list(embed_batches(LeftColumn(), Arrays(images), share=(1, 2)))


def test_cameras_reach_the_model(images):
    cameras = np.arange(7)
    features, _ = embed_images(LeftColumn(), Arrays(images), cameras=cameras)
    expected = columns(images) + 100 * torch.from_numpy(cameras)[:, None]
    torch.testing.assert_close(features[:, :3], unit(expected))


def test_broken_images_are_left_out_or_named(images):
    pool = Arrays(images, broken=(0, 1, 4))
    features, index = embed_images(LeftColumn(), pool, batch_size=2, skip_corrupt=True)
    assert index.tolist() == [2, 3, 5, 6]
    torch.testing.assert_close(features[:, :3], unit(columns(images))[index])
    with pytest.raises(UserError, match=r"0\.png"):
        embed_images(LeftColumn(), pool)


def test_a_stream_left_early_restores_the_mode(images):
    model = LeftColumn().train()
    stream = embed_batches(model, Arrays(images), batch_size=1)
    next(stream)
    assert not model.training
    stream.close()
    assert model.training


def test_bf16_comes_back_as_float32(images):
    model = build_backbone("vit_nano_patch8_ics", img_size=(16, 8))
    full, half = (
        embed_images(model, Arrays(images), precision=precision)[0] for precision in ("no", "bf16")
    )
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.02, rtol=0.02)
    with pytest.raises(ValueError, match="precision must be one of no, bf16, fp16"):
        embed_images(model, Arrays(images), precision="half")


PROCESSES = """
import sys

import torch
from accelerate import Accelerator

from transreid_ssl import UserError
from transreid_ssl.data import open_pool
from transreid_ssl.models import load_backbone
from transreid_ssl.retrieval import embed_images

accelerator = Accelerator(cpu=True)
folder, options = sys.argv[1], {"batch_size": 3, "accelerator": accelerator}
backbone, pool = load_backbone(f"{folder}/net.safetensors"), open_pool(f"{folder}/crops")
for buffer in backbone.buffers():  # statistics of this process's own batches
    buffer += accelerator.process_index
found = embed_images(backbone, pool, skip_corrupt=True, **options)
torch.save(found, f"{folder}/{accelerator.process_index}.pt")
try:
    embed_images(backbone, pool, **options)
except UserError as error:
    print(f"said: {error}", flush=True)
accelerator.end_training()
"""


def test_two_processes_embed_as_one(images, tmp_path):
    backbone = build_backbone("vit_nano_patch8_ics", img_size=(16, 8))
    save_backbone(tmp_path / "net.safetensors", backbone)
    pool = Arrays(images, broken=[4])
    (tmp_path / "crops").mkdir()
    for index, name in enumerate(pool.names):
        (tmp_path / "crops" / name).write_bytes(pool.read(index))
    (tmp_path / "run.py").write_text(PROCESSES)
    text = launch.run(str(tmp_path / "run.py"), str(tmp_path), processes=2)
    assert text.count("said: 4.png") == 2  # also where all of a process's own images can be read
    expected, index = embed_images(backbone, pool, batch_size=3, skip_corrupt=True)
    for process in range(2):
        found = torch.load(tmp_path / f"{process}.pt", weights_only=False)
        assert found[1].tolist() == index.tolist() == [0, 1, 2, 3, 5, 6]
        # The last digit may depend on where in memory a process has its batch.
        torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)


def test_colour_histogram_sees_colours_by_height():
    red, blue = np.zeros((2, 12, 4, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 200
    top_red = np.concatenate([red[:6], blue[6:]])
    features = colour_histogram([red, blue, top_red, np.repeat(top_red, 2, axis=0)])
    assert features.shape == (4, 768)
    assert features.dtype == np.float32
    similarity = features @ features.T
    np.testing.assert_allclose(similarity[0], [1, 0, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(similarity[2, 3], 1, atol=1e-6)
