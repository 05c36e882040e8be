"""The objective on clusters: its loss, its state, its batch norms, its schedule of density."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from transreid_ssl.errors import UserError
from transreid_ssl.finetune import ClusterObjective, ClusterSettings, ClusterTraining
from transreid_ssl.finetune.memory import cluster_loss
from transreid_ssl.models import build_backbone, normalise
from transreid_ssl.training import BackboneSettings
from transreid_ssl.training.health import feature_spread


def objective(**settings):
    torch.manual_seed(0)
    backbone = build_backbone("vit_nano_patch8_conv", img_size=(32, 16), feature_norm=True)
    return ClusterObjective(backbone, ClusterSettings(**settings))


def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (6, 3, 32, 16), generator=generator, dtype=torch.uint8)
    return {"images": images, "identities": torch.tensor([0, 0, 1, 1, 2, 2])}


def centres(seed=2):
    return torch.randn(3, 128, generator=torch.Generator().manual_seed(seed))


def test_the_feature_behind_the_neck_is_contrasted_at_unit_length():
    model = objective(temperature=0.1)
    model.begin_epoch(0, np.zeros(4, int), centres())
    values = model(batch())
    model.backbone.bottleneck.momentum = 0.0  # the second pass must not see the first one's
    spec = model.backbone.spec
    images = normalise(batch()["images"], spec.mean, spec.std)
    features = model.backbone(images)
    assert features.mean(dim=0).abs().max() < 1e-5  # batch norm has centred them
    expected = cluster_loss(
        features, batch()["identities"], F.normalize(centres(), dim=1), temperature=0.1
    )
    torch.testing.assert_close(values["loss"], expected)
    before_the_neck = []
    handle = model.backbone.bottleneck.register_forward_pre_hook(
        lambda _, given: before_the_neck.append(feature_spread(given[0]))
    )
    again = model(batch())
    handle.remove()
    torch.testing.assert_close(again["feature_spread"], before_the_neck[0])
    assert feature_spread(features) > 0.9 > 0.7 > before_the_neck[0]


def test_the_memory_moves_after_the_step_only():
    model = objective()
    model.begin_epoch(0, np.zeros(4, int), centres())
    before = model.memory.features.clone()
    model(batch())["loss"].backward()
    assert torch.equal(model.memory.features, before)
    model.after_step(0.0)
    assert not torch.equal(model.memory.features, before)
    assert not any("memory" in name for name, _ in model.named_buffers())


def test_an_epoch_is_part_of_the_state():
    model, other = objective(hard=False), objective(hard=False)
    fresh = io.BytesIO()
    torch.save(other.state_dict(), fresh)
    model.begin_epoch(4, np.array([2, -1, 0, 1]), centres())
    model(batch())
    model.after_step(0.0)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.epoch == 4
    assert other.labels.tolist() == [2, -1, 0, 1]
    assert torch.equal(other.memory.features, model.memory.features)
    assert not torch.equal(other.memory.features, F.normalize(centres(), dim=1))
    fresh.seek(0)  # a checkpoint from before the first epoch
    begun = objective()
    begun.load_state_dict(torch.load(fresh, weights_only=True))
    assert begun.epoch == -1


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_norms_keep_their_statistics(frozen):
    model = objective(frozen_norms=frozen).train()
    model.begin_epoch(0, np.zeros(4, int), centres())
    means = [value.clone() for name, value in model.named_buffers() if "running_mean" in name]
    model(batch())
    after = [value for name, value in model.named_buffers() if "running_mean" in name]
    assert len(after) > 1
    assert all(torch.equal(a, b) for a, b in zip(means, after)) is frozen
    assert model.backbone.blocks[0].training


def test_density_changes_in_equal_steps():
    plain = ClusterSettings(eps=0.6, min_samples=4)
    assert {plain.density(epoch, 5) for epoch in range(5)} == {(0.6, 4)}
    moving = ClusterSettings(eps=0.6, eps_end=0.4, min_samples=2, min_samples_end=6)
    found = [moving.density(epoch, 5) for epoch in range(5)]
    assert [eps for eps, _ in found] == pytest.approx([0.6, 0.55, 0.5, 0.45, 0.4])
    assert [least for _, least in found] == [2, 3, 4, 5, 6]
    assert moving.density(0, 1) == (0.6, 2)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="eps"):
        ClusterSettings(eps=1.5)
    with pytest.raises(UserError, match="min_samples"):
        ClusterSettings(min_samples=0)
    with pytest.raises(UserError, match="k2 9: give at most"):
        ClusterSettings(k1=5, k2=9)
    with pytest.raises(UserError, match="mgn_resnet50: clusters need one feature"):
        ClusterTraining(model=BackboneSettings(name="mgn_resnet50"))
