"""UP-ReID around its terms: off it is its base to the last bit, on it learns what it says."""

from dataclasses import replace

import pytest
import torch

from transreid_ssl import UserError
from transreid_ssl.data import MultiCrop, MultiCropConfig, ViewsDataset, open_pool
from transreid_ssl.data.collate import collate_views
from transreid_ssl.models import build_backbone
from transreid_ssl.pretrain import DINO, DINOConfig, MoCo, MoCoConfig
from transreid_ssl.pretrain.regularisers import consistency_loss
from transreid_ssl.pretrain.settings import RegularisersConfig
from transreid_ssl.pretrain.upreid import UPReID, UPReIDDINO

MOCO = MoCoConfig(dim=16, hidden_dim=32, queue_size=64, momentum=0.9)
SMALL_DINO = DINOConfig(out_dim=32, hidden_dim=32, bottleneck_dim=16, freeze_last_layer=0)
OFF = RegularisersConfig(consistency_weight=0, intrinsic_weight=0)
SMALL = {"patch_hidden_dim": 32, "patch_dim": 16}
ON = RegularisersConfig(consistency_weight=0.7, intrinsic_weight=0.3, **SMALL)


def backbones(name="vit_nano_patch8_reid"):
    torch.manual_seed(0)
    return [build_backbone(name, img_size=(32, 16)) for _ in range(2)]


def moco(terms=None, config=MOCO, **options):
    arguments = *backbones(**options), config
    return MoCo(*arguments) if terms is None else UPReID(*arguments, terms)


def dino(terms=None, num_teacher_crops=2):
    options = {"num_crops": num_teacher_crops + 1, "num_teacher_crops": num_teacher_crops}
    if terms is None:
        return DINO(*backbones(), SMALL_DINO, **options)
    return UPReIDDINO(*backbones(), SMALL_DINO, terms, **options)


@pytest.fixture(scope="module")
def batches():
    """Nine batches of 16 generated people, two large views and a small one, located."""
    pool = open_pool("demo:identities=144,images=1,height=32,width=16")
    views = MultiCropConfig(
        global_size=(32, 16), local_size=(16, 8), num_local=1, ratio=(0.42, 0.6), original=True
    )
    dataset = ViewsDataset(pool, MultiCrop(views), seed=0)
    return [
        collate_views([dataset[(0, first + i)] for i in range(16)]) for first in range(0, 144, 16)
    ]


def steps(objective, batches):
    """Train for a step a batch; losses, the last gradients and the whole state."""
    objective.train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    torch.manual_seed(1)
    losses = []
    for number, batch in enumerate(batches):
        optimizer.zero_grad()
        loss = objective(batch, epoch=0)["loss"]
        loss.backward()
        objective.before_step(0)
        optimizer.step()
        objective.after_step(number / 10)
        losses.append(loss.item())
    gradients = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    return losses, gradients, objective.state_dict()


@pytest.mark.parametrize(
    ("base", "options", "passes_a_step"),
    [(moco, {}, 1), (moco, {"config": replace(MOCO, symmetric=True)}, 2), (dino, {}, 1)],
)
def test_without_weights_it_is_its_base_to_the_last_bit(batches, base, options, passes_a_step):
    plain = [{"views": batch["views"]} for batch in batches[:3]]
    expected = steps(base(**options), plain)
    objective, passes = base(OFF, **options), []
    for network in objective.networks:
        network.register_forward_hook(lambda *call: passes.append(call[0]))
    found = steps(objective, plain)
    assert expected[0] == found[0]
    for one, other in zip(expected[1:], found[1:]):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    counts = [passes.count(network) for network in objective.networks]
    assert counts == [3 * passes_a_step] * 2, "the terms' passes are left out"


@pytest.mark.parametrize("base", [moco, dino])
def test_the_loss_is_the_base_and_the_weighted_terms(batches, base):
    objective = base(ON)
    values = objective(batches[0], epoch=0)
    expected = values["base_loss"] + 0.7 * values["consistency"] + 0.3 * values["intrinsic"]
    torch.testing.assert_close(values["loss"], expected)
    torch.manual_seed(0)
    torch.testing.assert_close(values["base_loss"], base()(batches[0], epoch=0)["loss"])
    assert 0.2 < values["patches_compared"] <= 1
    values["loss"].backward()
    for name, parameter in objective.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_only_the_chosen_term_is_computed(batches):
    for weight, absent in (
        ("consistency_weight", "consistency"),
        ("intrinsic_weight", "intrinsic"),
    ):
        values = moco(RegularisersConfig(**{weight: 0}, **SMALL))(batches[0], epoch=0)
        assert absent not in values
        assert {"consistency", "intrinsic"} - {absent} <= values.keys()


def test_mocos_consistency_is_that_of_similarities_to_the_queue(batches):
    terms = RegularisersConfig(consistency_temperature=0.5, **SMALL)
    objective, batch = moco(terms).eval(), batches[0]
    found = objective(batch, epoch=0)["consistency"]
    first, second = (
        torch.nn.functional.normalize(objective.encoder_q([view])[1], dim=1)
        for view in batch["views"][0].chunk(2)
    )
    original = objective.key(batch["original"])
    logits = [vectors @ objective.queue.keys / 0.5 for vectors in (first, second, original)]
    expected = consistency_loss(torch.stack(logits[:2]), logits[2])
    torch.testing.assert_close(found, expected)
    assert found > 1e-4


def test_dinos_consistency_is_that_of_prototypes_centred_and_sharpened(batches):
    objective, batch = dino(ON), batches[0]
    objective.loss.center += torch.randn(1, 32) / 10
    objective.eval()
    found = objective(batch, epoch=0)["consistency"]
    student = objective.student([batch["views"][0]])[1]
    teacher = objective.teacher([batch["original"]])[1]
    sharp = (teacher - objective.loss.center) / SMALL_DINO.teacher_temp
    views = student.unflatten(0, (2, 16)) / SMALL_DINO.student_temp
    torch.testing.assert_close(found, consistency_loss(views, sharp))


@pytest.mark.parametrize("base", [moco, dino])
@pytest.mark.parametrize("term", ["consistency", "intrinsic"])
def test_a_term_alone_is_learnt_and_holds_for_people_never_seen(batches, base, term):
    weights = {f"{name}_weight": float(name == term) for name in ("consistency", "intrinsic")}
    objective = base(RegularisersConfig(**weights, **SMALL))

    def unseen():
        objective.eval()
        with torch.no_grad():
            return objective(batches[8], epoch=0)[term].item()

    objective.train()
    for batch in batches[:3]:  # DINO's centre finds its place, and then stands still
        objective(batch, epoch=0)
    before = unseen()
    objective.train()
    if base is dino:
        objective.loss.eval()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    for step in range(16):
        optimizer.zero_grad()
        objective(batches[step % 8], epoch=0)[term].backward()
        optimizer.step()
    assert unseen() < 0.95 * before


def test_a_resnet_has_patches_too_and_mgn_has_none(batches):
    values = moco(ON, name="resnet_nano_reid")(batches[0], epoch=0)
    assert values["intrinsic"] > 0
    with pytest.raises(UserError, match="mgn_resnet_nano"):
        moco(ON, name="mgn_resnet_nano")
    moco(OFF, name="mgn_resnet_nano")


def test_patches_of_one_large_view_have_nothing_to_be_compared_with():
    with pytest.raises(UserError, match="num_global"):
        dino(ON, num_teacher_crops=1)
    dino(RegularisersConfig(intrinsic_weight=0), num_teacher_crops=1)


@pytest.mark.parametrize("name", ["vit_nano_patch16_pass", "jpm", "resnet_nano_reid"])
def test_patches_have_the_channels_of_the_map_whatever_the_feature_is(batches, name):
    options = {"name": "vit_nano_patch8_reid", "jpm": True} if name == "jpm" else {"name": name}
    pair = [build_backbone(img_size=(32, 16), **options) for _ in range(2)]
    values = UPReID(*pair, MOCO, ON)(batches[0], epoch=0)
    assert values["intrinsic"].isfinite()
