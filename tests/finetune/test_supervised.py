from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from transreid_ssl import UserError
from transreid_ssl.finetune import (
    LabelledSettings,
    SupervisedConfig,
    SupervisedObjective,
    batch_hard_triplet,
    set_statistics,
)
from transreid_ssl.finetune.settings import SUPERVISED_OPTIM
from transreid_ssl.models import (
    HALF,
    IMAGENET,
    LUPERSON_MGN,
    build_backbone,
    normalise,
    save_backbone,
)
from transreid_ssl.training import build_optimizer


def make_backbone(**options):
    torch.manual_seed(0)
    return build_backbone("vit_nano_patch8_reid", img_size=(32, 16), **options)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "images": torch.randint(0, 256, (8, 3, 32, 16), dtype=torch.uint8, generator=generator),
        "identities": torch.arange(4).repeat_interleave(2),
        "cameras": torch.tensor([0, 1] * 4),
    }


def test_losses_are_those_of_the_parts(batch):
    config = SupervisedConfig(label_smoothing=0.1, margin=0.3, id_weight=0.5, triplet_weight=2.0)
    objective = SupervisedObjective(make_backbone(mean=HALF.mean, std=HALF.std), 4, config)
    found = objective(batch, 0)
    features = objective.backbone(normalise(batch["images"], *HALF))
    statistics = features.mean(0), features.var(0, unbiased=False)
    spread = (features - statistics[0]) / (statistics[1] + 1e-5).sqrt()
    logits = spread @ objective.neck.classifier.weight.T
    id_loss = F.cross_entropy(logits, batch["identities"], label_smoothing=0.1)
    triplet_loss = batch_hard_triplet(features, batch["identities"], 0.3)
    torch.testing.assert_close(found["id_loss"], id_loss)
    torch.testing.assert_close(found["triplet_loss"], triplet_loss)
    torch.testing.assert_close(found["loss"], 0.5 * id_loss + 2 * triplet_loss)
    right = (logits.argmax(1) == batch["identities"]).float().mean()
    assert found["accuracy"] == right
    assert not found["accuracy"].requires_grad


def test_parts_make_half_of_each_loss(batch):
    objective = SupervisedObjective(make_backbone(jpm=True), 4)
    found = objective(batch, 0)
    features = objective.backbone(normalise(batch["images"], *IMAGENET))
    id_losses, triplet_losses = [], []
    for branch, neck in enumerate([objective.neck, *objective.part_necks]):
        vectors = features[:, 128 * branch : 128 * (branch + 1)] * (4 if branch else 1)
        spread = (vectors - vectors.mean(0)) / (vectors.var(0, unbiased=False) + 1e-5).sqrt()
        id_losses.append(F.cross_entropy(spread @ neck.classifier.weight.T, batch["identities"]))
        triplet_losses.append(batch_hard_triplet(vectors, batch["identities"]))
    for name, losses in (("id_loss", id_losses), ("triplet_loss", triplet_losses)):
        torch.testing.assert_close(found[name], losses[0] / 2 + sum(losses[1:]) / 8)
    torch.testing.assert_close(found["loss"], found["id_loss"] + found["triplet_loss"])
    found["loss"].backward()
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)


def test_cameras_are_given_to_a_backbone_that_embeds_them(batch):
    objective = SupervisedObjective(make_backbone(num_cameras=2), 4)
    with torch.no_grad():
        one = objective(batch, 0)["triplet_loss"]
        other = objective(batch | {"cameras": 1 - batch["cameras"]}, 0)["triplet_loss"]
    assert one != other


def test_every_trained_parameter_is_in_one_group():
    objective = SupervisedObjective(make_backbone(), 4)
    optimizer = build_optimizer(objective, SUPERVISED_OPTIM)
    names = {id(p): name for name, p in objective.named_parameters()}
    weights, biases = [[names[id(p)] for p in g["params"]] for g in optimizer.param_groups]
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert sorted(weights + biases) == sorted(trained)
    assert all(name.endswith("bias") for name in biases)
    assert not any(name.endswith("bias") for name in weights)
    assert "neck.bottleneck.bias" not in trained
    assert [g["peak_scale"] for g in optimizer.param_groups] == [1.0, 2.0]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-4, 1e-4]


def test_training_tells_the_identities_apart(batch):
    objective = SupervisedObjective(make_backbone(), 4)
    optimizer = build_optimizer(objective, replace(SUPERVISED_OPTIM, lr=0.01))
    values = []
    for _ in range(15):
        values.append(objective(batch, 0))
        optimizer.zero_grad()
        values[-1]["loss"].backward()
        optimizer.step()
    assert values[-1]["loss"] < 0.5 * values[0]["loss"]
    assert values[-1]["accuracy"] == 1
    assert not objective.neck.bottleneck.bias.any()


def test_statistics(tmp_path):
    odd = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    path = tmp_path / "weights.safetensors"
    save_backbone(path, make_backbone(mean=odd[0], std=odd[1]))
    for which, weights, expected in [
        ("half", path, HALF),
        ("imagenet", path, IMAGENET),
        ("luperson_mgn", path, LUPERSON_MGN),
        ("pretrained", path, odd),
        ("pretrained", None, IMAGENET),
    ]:
        backbone = make_backbone()
        set_statistics(backbone, which, weights)
        assert (backbone.spec.mean, backbone.spec.std) == tuple(expected)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (SupervisedConfig, "label_smoothing", 1.0),
        (SupervisedConfig, "label_smoothing", -0.1),
        (SupervisedConfig, "margin", -0.3),
        (SupervisedConfig, "id_weight", -1.0),
        (SupervisedConfig, "triplet_weight", -1.0),
        (LabelledSettings, "images_per_identity", 1),
    ],
)
def test_wrong_values_are_one_line(kind, name, value):
    with pytest.raises(UserError) as error:
        kind(**{name: value})
    assert str(error.value).startswith(f"{kind.__name__}.{name} is {value}: give ")
    assert "\n" not in str(error.value)
