import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from transreid_ssl import UserError
from transreid_ssl.finetune.losses import batch_hard_triplet, circle_logits, smoothed_cross_entropy
from transreid_ssl.finetune.mgn import MGNObjective
from transreid_ssl.finetune.settings import MGN_OPTIM, MGNConfig
from transreid_ssl.models import LUPERSON, build_backbone, load_backbone, normalise
from transreid_ssl.training import build_optimizer


def build(name):
    torch.manual_seed(0)
    return build_backbone(name, img_size=(48, 16), mean=LUPERSON.mean, std=LUPERSON.std)


@pytest.fixture
def backbone():
    return build("mgn_resnet_nano")


@pytest.fixture
def luperson():
    return build("mgn_resnet_nano_luperson")


@pytest.fixture(params=["mgn_resnet_nano", "mgn_resnet_nano_luperson"])
def either(request):
    return build(request.param)


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
        vectors = parts.pooled[:, i] if i < 3 else parts.parts[:, i - 3]
        logits = vectors @ objective.classifiers[i].weight.T
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


@pytest.mark.parametrize("over", ["all", "others"])
def test_losses_of_luperson_s_head(luperson, batch, over):
    config = MGNConfig(
        label_smoothing=0.2, smoothing_over=over, id_weight=0.5, triplet_weight=2.0,
        circle_scale=30.0, circle_margin=0.2,
    )  # fmt: skip
    objective = MGNObjective(luperson, 4, config)
    found = objective(batch, 0)
    # Eight vectors of 32: b1, b2, b3, two halves, three thirds.
    feature = luperson(normalise(batch["images"], *LUPERSON))
    vectors, identities = feature.split(32, dim=1), batch["identities"]
    id_losses, scores = [], 0
    for vector, classifier in zip(vectors, objective.classifiers):
        lengths = vector.norm(dim=1)[:, None] * classifier.weight.norm(dim=1)
        cosines = vector @ classifier.weight.T / lengths
        logits = circle_logits(cosines, identities, 30.0, 0.2)
        id_losses.append(smoothed_cross_entropy(logits, identities, 0.2, over))
        scores = scores + cosines
    triplets = [batch_hard_triplet(vector, identities) for vector in vectors[:3]]
    triplets.append(batch_hard_triplet(feature[:, 96:160], identities))
    triplets.append(batch_hard_triplet(feature[:, 160:], identities))
    id_loss, triplet_loss = sum(id_losses) / 8, 0.2 * sum(triplets)
    torch.testing.assert_close(found["id_loss"], id_loss)
    torch.testing.assert_close(found["triplet_loss"], triplet_loss)
    torch.testing.assert_close(found["loss"], 0.5 * id_loss + 2 * triplet_loss)
    assert found["accuracy"] == (scores.argmax(1) == identities).float().mean()


def test_every_parameter_learns(either, batch):
    objective = MGNObjective(either, 4)
    large = batch["images"].repeat(1, 1, 2, 2)  # a stripe of one cell has nothing to pool
    objective(batch | {"images": large})["loss"].backward()
    learning = [p for p in objective.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.any() for p in learning)


def test_pretrained_weights_rest_for_the_first_epochs(either, batch):
    objective = MGNObjective(either, 4, MGNConfig(freeze_epochs=2))
    optimizer = build_optimizer(objective, replace(MGN_OPTIM, lr=0.01, weight_decay=0.1))
    resting = {id(p) for p in either.pretrained_parameters()}

    def moved(epoch):
        before = [p.detach().clone() for p in objective.parameters()]
        optimizer.zero_grad()
        objective(batch, epoch)["loss"].backward()
        objective.before_step(epoch)
        optimizer.step()
        return {id(p) for p, old in zip(objective.parameters(), before) if not torch.equal(p, old)}

    everything = {id(p) for p in objective.parameters() if p.requires_grad}
    assert moved(0) == moved(1) == everything - resting
    assert moved(2) == everything


@pytest.mark.parametrize("rest", [True, False])
def test_statistics_of_resting_weights_rest_too_where_asked(luperson, batch, rest):
    config = MGNConfig(freeze_epochs=2, freeze_statistics=rest)
    objective = MGNObjective(luperson, 4, config)
    weights = {id(p) for p in luperson.pretrained_parameters()}
    norms = [m for m in luperson.modules() if hasattr(m, "running_mean")]
    resting = {m for m in norms if id(m.weight) in weights}

    def moved(epoch):
        before = [m.running_mean.clone() for m in norms]
        objective.train()  # as the loop does after every probe
        objective(batch, epoch)
        return {m for m, old in zip(norms, before) if not torch.equal(m.running_mean, old)}

    assert len(resting) < len(norms)
    assert moved(0) == moved(1) == set(norms) - (resting if rest else set())
    assert moved(2) == set(norms)
    objective.eval()
    objective(batch, 2)
    assert not any(m.training for m in norms)


def test_resting_statistics_are_the_same_after_a_restart(luperson, batch):
    config = MGNConfig(freeze_epochs=2, freeze_statistics=True)
    unbroken, resumed = (MGNObjective(copy.deepcopy(luperson), 4, config) for _ in range(2))
    for epoch in (0, 1):
        unbroken(batch, epoch)
    resumed.load_state_dict(unbroken.state_dict())
    for epoch in (1, 2):
        assert torch.equal(unbroken(batch, epoch)["loss"], resumed(batch, epoch)["loss"])
    for value, other in zip(unbroken.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(value, other)


def test_training_tells_the_identities_apart(either, batch):
    objective = MGNObjective(either, 4, MGNConfig(label_smoothing=0.0, freeze_epochs=0))
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
        (MGNConfig, "circle_scale", 0.0),
        (MGNConfig, "circle_margin", 1.5),
    ],
)
def test_wrong_values_are_one_line(kind, name, value):
    with pytest.raises(UserError) as error:
        kind(**{name: value})
    assert str(error.value).startswith(f"{kind.__name__}.{name} is {value}: give ")
    assert "\n" not in str(error.value)
