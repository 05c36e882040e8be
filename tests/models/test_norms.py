"""Batch norms over blocks of a batch: what as many GPUs compute that do not share statistics."""

import copy

import pytest
import torch
from torch import nn

from transreid_ssl import UserError
from transreid_ssl.models import BlockNorm, block_norms, build_backbone, group_norms

NANO = "vit_nano_patch8_ics"


def test_blocks_are_batches_of_their_own():
    torch.manual_seed(0)
    plain = build_backbone(NANO, img_size=(32, 16), feature_norm=True)
    blocks = group_norms(
        copy.deepcopy(plain), device="cpu", num_processes=1, norm_images=4, images=12
    )
    names = [type(module).__name__ for module in blocks.modules()]
    assert (names.count("BlockNorm"), names.count("BatchNorm2d")) == (4, 0)
    images = torch.randn(12, 3, 32, 16)
    parts, whole = images.chunk(3), blocks(images)
    for i, part in enumerate(parts):
        alone = copy.deepcopy(plain)
        torch.testing.assert_close(whole[4 * i : 4 * i + 4], alone(part), rtol=1e-4, atol=1e-5)
    first = copy.deepcopy(plain)
    first(parts[0])
    assert list(blocks.state_dict()) == list(first.state_dict())
    for name, value in first.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(blocks.state_dict()[name], value)
    first.eval(), blocks.eval()
    torch.testing.assert_close(blocks(images), first(images), rtol=1e-4, atol=1e-5)


def test_a_block_has_all_views_of_its_images():
    norm = BlockNorm(nn.BatchNorm1d(3, affine=False), images=2, blocks=2)
    images = torch.randn(2, 4, 3)  # two views of four images
    found = norm(images.flatten(0, 1)).unflatten(0, (2, 4))
    for block in (slice(0, 2), slice(2, 4)):
        plain = nn.BatchNorm1d(3, affine=False)(images[:, block].flatten(0, 1))
        torch.testing.assert_close(found[:, block].flatten(0, 1), plain)


def test_a_block_of_one_vector_is_refused():
    maps, vectors = nn.BatchNorm2d(3), nn.BatchNorm1d(3)
    BlockNorm(maps, images=1, blocks=4)(torch.randn(4, 3, 2, 2))
    norm = BlockNorm(vectors, images=1, blocks=4)
    norm(torch.randn(8, 3))  # two views of four images
    with pytest.raises(UserError, match=r"--run\.norm_images 1: .*give 2 or more"):
        norm(torch.randn(4, 3))
    norm.eval()(torch.randn(4, 3))


def test_running_statistics_stand_still_where_they_are_not_tracked():
    model = group_norms(
        nn.Sequential(nn.BatchNorm1d(3)), device="cpu", num_processes=1, norm_images=2, images=4
    )
    for norm in block_norms(model):
        norm.tracks = False
    model(torch.randn(4, 3) + 5)
    assert not model[0].running_mean.any()


def test_gradients_are_those_of_the_blocks():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    blocks = group_norms(
        copy.deepcopy(plain), device="cpu", num_processes=1, norm_images=4, images=8
    )
    values = torch.randn(8, 3)
    blocks(values).square().mean().backward()
    torch.stack([plain(part).square().mean() for part in values.chunk(2)]).mean().backward()
    for ours, theirs in zip(blocks.parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_norms_are_synchronised_between_gpus_only():
    model = build_backbone(NANO, img_size=(64, 32))
    assert group_norms(model, device="cpu", num_processes=2) is model
    assert group_norms(model, device="cuda", num_processes=1) is model
    names = list(model.state_dict())
    synced = group_norms(model, device="cuda", num_processes=2)
    kinds = [type(m).__name__ for m in synced.modules()]
    assert (kinds.count("SyncBatchNorm"), kinds.count("BatchNorm2d")) == (3, 0)
    assert list(synced.state_dict()) == names


@pytest.mark.parametrize(
    ("processes", "norm_images", "images", "complaint"),
    [(1, 48, 32, "cannot be put together"), (1, 64, 32, "cannot be put"), (2, 64, 32, "CPUs")],
)
def test_impossible_numbers_are_one_line(processes, norm_images, images, complaint):
    options = {"num_processes": processes, "norm_images": norm_images, "images": images}
    with pytest.raises(UserError, match=rf"--run.norm_images {norm_images}: .*{complaint}"):
        group_norms(nn.BatchNorm1d(2), device="cpu", **options)
