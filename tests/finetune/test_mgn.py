from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from transreid_ssl import UserError
from transreid_ssl.finetune.losses import batch_hard_triplet
from transreid_ssl.finetune.mgn import MGN_OPTIM, MGNConfig, MGNObjective
from transreid_ssl.models import LUPERSON, build_backbone, load_backbone, normalise
from transreid_ssl.training import build_optimizer


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    options = {"mean": LUPERSON.mean, "std": LUPERSON.std}
    return build_backbone("mgn_resnet_nano", img_size=(48, 16), **options)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "images": torch.randint(0, 256, (8, 3, 48, 16), dtype=torch.uint8, generator=generator),
        "identities": torch.arange(4).repeat_interleave(2),
        "cameras": torch.tensor([0, 1] * 4),
    }


@pytest.mark.parametrize("margin", [None, 0.3])
def test_losses_are_those_of_the_parts(backbone, batch, margin):
    config = MGNConfig(label_smoothing=0.2, margin=margin, id_weight=0.5, triplet_weight=2.0)
    objective = MGNObjective(backbone, 4, config)
    found = objective(batch, 0)
    parts = backbone(normalise(batch["images"], *LUPERSON), parts=True)
    identities, id_losses, triplets, scores = batch["identities"], [], [], 0
    for i in range(8):
        classifiers = objective.whole_classifiers if i < 3 else objective.part_classifiers
        vectors = parts.pooled[:, i] if i < 3 else parts.parts[:, i - 3]
        logits = vectors @ classifiers[i if i < 3 else i - 3].weight.T
        id_losses.append(F.cross_entropy(logits, identities, label_smoothing=0.2))
        scores = scores + logits
        if i < 3:
            triplets.append(batch_hard_triplet(parts.whole[:, i], identities, margin))
    id_loss, triplet_loss = sum(id_losses) / 8, sum(triplets) / 3
    torch.testing.assert_close(found["id_loss"], id_loss)
    torch.testing.assert_close(found["triplet_loss"], triplet_loss)
    torch.testing.assert_close(found["loss"], 0.5 * id_loss + 2 * triplet_loss)
    assert found["accuracy"] == (scores.argmax(1) == identities).float().mean()
    assert not found["accuracy"].requires_grad


def test_every_parameter_learns(backbone, batch):
    objective = MGNObjective(backbone, 4)
    objective(batch)["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in objective.parameters())


def test_pretrained_weights_rest_for_the_first_epochs(backbone, batch):
    objective = MGNObjective(backbone, 4, MGNConfig(freeze_epochs=2))
    optimizer = build_optimizer(objective, replace(MGN_OPTIM, lr=0.01, weight_decay=0.1))
    resting = {id(p) for p in backbone.pretrained_parameters()}

    def moved(epoch):
        before = [p.detach().clone() for p in objective.parameters()]
        optimizer.zero_grad()
        objective(batch, epoch)["loss"].backward()
        objective.before_step(epoch)
        optimizer.step()
        return {id(p) for p, old in zip(objective.parameters(), before) if not torch.equal(p, old)}

    everything = {id(p) for p in objective.parameters()}
    assert moved(0) == moved(1) == everything - resting
    assert moved(2) == everything


def test_training_tells_the_identities_apart(backbone, batch):
    objective = MGNObjective(backbone, 4, MGNConfig(label_smoothing=0.0, freeze_epochs=0))
    optimizer = build_optimizer(objective, replace(MGN_OPTIM, lr=2e-3))
    values = []
    for _ in range(12):
        values.append(objective(batch, 0))
        optimizer.zero_grad()
        values[-1]["loss"].backward()
        optimizer.step()
    assert values[-1]["loss"] < 0.5 * values[0]["loss"]
    assert values[-1]["accuracy"] == 1


def test_a_training_checkpoint_serves_as_a_weights_file(tmp_path, backbone, batch):
    objective = MGNObjective(backbone, 4)
    state = {"objective": objective.state_dict(), "spec": objective.spec.to_json()}
    state["backbones"] = objective.prefixes()
    torch.save(state, tmp_path / "step_1.pt")
    loaded = load_backbone(tmp_path / "step_1.pt")
    images = normalise(batch["images"], *LUPERSON)
    torch.testing.assert_close(loaded(images), backbone.eval()(images))
    assert loaded.spec == backbone.spec


def test_other_backbones_are_refused():
    with pytest.raises(UserError, match=r"resnet_nano_reid: .*mgn_"):
        MGNObjective(build_backbone("resnet_nano_reid"), 4)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (MGNConfig, "label_smoothing", 1.0),
        (MGNConfig, "margin", -0.3),
        (MGNConfig, "id_weight", -1.0),
        (MGNConfig, "triplet_weight", -1.0),
        (MGNConfig, "freeze_epochs", -1),
    ],
)
def test_wrong_values_are_one_line(kind, name, value):
    with pytest.raises(UserError) as error:
        kind(**{name: value})
    assert str(error.value).startswith(f"{kind.__name__}.{name} is {value}: give ")
    assert "\n" not in str(error.value)
