"""MoCo, MoCo v3 and MoBY around their contrast: who learns, who follows, what is remembered."""

import math
import re
from itertools import zip_longest

import pytest
import torch

from slow_contrast import slow_info_nce
from transreid_ssl import UserError
from transreid_ssl.data import MultiCropConfig
from transreid_ssl.models import build_backbone, load_backbone
from transreid_ssl.models.initialise import sincos_positions
from transreid_ssl.pretrain import (
    MoBY,
    MoBYConfig,
    MoCo,
    MoCoConfig,
    MoCoV3,
    MoCoV3Config,
    check_two_views,
)

SMALL = {
    MoCo: MoCoConfig(dim=8, queue_size=12, momentum=0.5),
    MoCoV3: MoCoV3Config(dim=8, hidden_dim=16, momentum=0.5),
    MoBY: MoBYConfig(dim=8, hidden_dim=16, queue_size=12, momentum=0.5),
}
METHODS = pytest.mark.parametrize("method", SMALL, ids=lambda method: method.name)


def backbones(name="vit_nano_patch8_reid", **options):
    return [build_backbone(name, img_size=(16, 8), **options) for _ in range(2)]


def build(method, network="vit_nano_patch8_reid", **changes):
    torch.manual_seed(0)
    config = type(SMALL[method])(**{**vars(SMALL[method]), **changes})
    return method(*backbones(network), config)


def batch(number=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (2 * number, 3, 16, 8)
    return {"views": [torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)]}


def part(whole, start, end):
    """Some images of a batch, with both views of each."""
    first, second = whole["views"][0].chunk(2)
    return {"views": [torch.cat([first[start:end], second[start:end]])]}


def step(objective, batches, lr=0.1):
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=lr)
    values = [objective(b, epoch=0) for b in batches]
    for value in values:
        (value["loss"] / len(batches)).backward()
    optimizer.step()
    objective.after_step(progress=0.0)
    return values


@METHODS
def test_the_query_encoder_learns_and_the_key_encoder_follows_it_half_way(method):
    objective = build(method)
    slow, fast = (list(e.parameters()) for e in (objective.encoder_k, objective.encoder_q))
    before = [p.clone() for p in slow]
    assert all(torch.equal(a, b) for a, b in zip(slow, fast))
    (values,) = step(objective, [batch()])
    assert {"loss", "contrast_accuracy", "feature_spread"} == set(values)
    assert all(p.grad is None and not p.requires_grad for p in slow)
    for old, now, leader in zip(before, slow, fast):
        torch.testing.assert_close(now, (old + leader) / 2)
    learning = [p for p in [*fast, *objective.predictor.parameters()] if p.requires_grad]
    assert learning
    assert all(p.grad is not None for p in learning)
    assert any(not torch.equal(a, b) for a, b in zip(before, fast))
    assert objective.backbone is objective.encoder_q.backbone


@METHODS
def test_momentum_ends_at_one_but_for_moco(method):
    objective = build(method)
    step(objective, [batch()])
    before = [p.clone() for p in objective.encoder_k.parameters()]
    objective.after_step(progress=1.0)
    still = all(torch.equal(a, b) for a, b in zip(before, objective.encoder_k.parameters()))
    assert still is (method is not MoCo)


def vectors(objective, whole):
    """Queries and keys of both views as lists of plain vectors."""
    views = objective.two_views(whole)
    with torch.no_grad():
        return [objective.query(v)[1] for v in views], [objective.key(v) for v in views]


@METHODS
@pytest.mark.parametrize("tracks", [None, [5, 6, 5, 7]])
def test_the_loss_of_a_batch_equals_a_slow_loop(method, tracks):
    known = {"tracks": torch.tensor(tracks)} if tracks else {}
    objective = build(method, **({"symmetric": True} if method is MoCo and tracks else {}))
    tracks = tracks or [0, 1, 2, 3]  # which differ from one another and from those of the queue
    entered = [track for track in tracks for _ in objective.query_views] if known else []
    entered = entered[:: 2 if method is MoBY else 1]  # into each of its queues a key of an image
    step(objective, [batch(seed=1) | known])
    objective.eval()
    (queries, keys), terms = vectors(objective, batch()), []
    for asked in objective.query_views:
        for i in range(4):
            if method is MoCoV3:
                others = [keys[1 - asked][j] for j in range(4) if j != i and tracks[j] != tracks[i]]
            else:
                queue = objective.queue if method is MoCo else objective.queues[1 - asked]
                pairs = zip_longest(queue.keys.T, entered)
                others = [key for key, track in pairs if track != tracks[i]]
            temperature = objective.config.temperature
            scale = 2 * temperature if method is MoCoV3 else 1
            pair = queries[asked][i], keys[1 - asked][i]
            terms.append(scale * slow_info_nce(*pair, others, temperature) / 4)
    torch.testing.assert_close(objective(batch() | known, 0)["loss"], torch.tensor(sum(terms)))


@pytest.mark.parametrize("method", [MoCo, MoBY], ids=lambda method: method.name)
def test_micro_batches_learn_and_remember_as_one_batch_does(method):
    plain = {"head_norm": False}
    whole, parts = build(method, **plain), build(method, **plain)
    for seed in (0, 1):  # 16 keys into queues of 12
        everything = batch(8, seed)
        (one,) = step(whole, [everything])
        two = step(parts, [part(everything, 0, 4), part(everything, 4, 8)])
        torch.testing.assert_close((two[0]["loss"] + two[1]["loss"]) / 2, one["loss"])
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_moby_keeps_each_view_in_its_own_queue():
    moby = build(MoBY).eval()
    _, keys = vectors(moby, batch())
    for view in (0, 1):
        moby.remember({view: keys[view]})
    moby.after_step(progress=1.0)
    for view in (0, 1):
        torch.testing.assert_close(moby.queues[view].keys[:, :4], keys[view].T)


def test_symmetric_moco_asks_both_ways_and_remembers_image_by_image():
    moco = build(MoCo, symmetric=True)
    one_way = build(MoCo)
    there = one_way(batch(), 0)["loss"]
    back = one_way({"views": [batch()["views"][0].roll(4, 0)]}, 0)["loss"]
    _, keys = vectors(moco, batch())
    torch.testing.assert_close(moco(batch(), 0)["loss"], there + back)
    moco.after_step(progress=0.0)
    both = torch.stack(keys[::-1], dim=1).flatten(0, 1)  # the second view's key comes first
    torch.testing.assert_close(moco.queue.keys[:, :8], both.T)


def test_nothing_is_remembered_in_evaluation():
    moco = build(MoCo).eval()
    before = moco.queue.keys.clone()
    moco(batch(), 0)
    moco.after_step(progress=0.0)
    assert torch.equal(moco.queue.keys, before)


@pytest.mark.parametrize("network", ["vit_nano_patch8_reid", "vit_nano_patch8_ics"])
def test_moco_v3_leaves_the_patch_embedding_as_it_was(network):
    objective = build(MoCoV3, network)
    patches = objective.encoder_q.backbone.patch_embed
    before = [p.clone() for p in patches.parameters()]
    step(objective, [batch()])
    assert all(torch.equal(a, b) for a, b in zip(before, patches.parameters()))
    learning = build(MoCoV3, network, freeze_patches=False, positions="learned")
    assert all(p.requires_grad for p in learning.encoder_q.backbone.parameters())


def test_moco_v3_draws_new_weights_as_published():
    network = build(MoCoV3).backbone
    drawn = math.sqrt(2 / (3 * 8 * 8 + 128))
    assert network.patch_embed.proj.weight.std().item() == pytest.approx(drawn, rel=0.03)
    assert torch.equal(network.pos_embed[:, 1:], sincos_positions((2, 1), 128))
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"}
    own = build(MoCoV3, initialisation="default", positions="learned").backbone
    torch.manual_seed(0)
    expected = backbones()[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in own.state_dict().items())


def test_moco_v3_keeps_weights_that_are_not_new():
    pair = backbones()
    before = {name: value.clone() for name, value in pair[0].state_dict().items()}
    network = MoCoV3(*pair, SMALL[MoCoV3], fresh=False).backbone
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.pos_embed.requires_grad
    assert not network.patch_embed.proj.weight.requires_grad


def test_moco_v3_on_a_network_without_patches_says_what_to_set():
    with pytest.raises(UserError, match=r"freeze_patches false.*default.*learned"):
        build(MoCoV3, "resnet_nano_reid")
    free = {"freeze_patches": False, "initialisation": "default", "positions": "learned"}
    assert step(build(MoCoV3, "resnet_nano_reid", **free), [batch()])


@pytest.mark.parametrize(("name", "jpm"), [("pass", False), ("reid", True)])
def test_moco_v3_draws_and_fixes_plain_vits_only(name, jpm):
    def refused(**settings):
        with pytest.raises(UserError, match=r"plain ViTs; give .*default .*learned"):
            MoCoV3(*pair, MoCoV3Config(dim=8, hidden_dim=16, **settings))

    pair = [build_backbone(f"vit_nano_patch8_{name}", img_size=(32, 16), jpm=jpm) for _ in "qk"]
    refused(initialisation="default")
    refused(positions="learned")
    free = {"initialisation": "default", "positions": "learned"}
    objective = MoCoV3(*pair, MoCoV3Config(dim=8, hidden_dim=16, **free))
    assert step(objective, [batch()])
    assert not any(p.requires_grad for p in objective.backbone.patch_embed.parameters())


def test_one_image_is_refused_where_batch_norms_need_two():
    with pytest.raises(UserError, match="batch_size"):
        build(MoCoV3)(batch(1), epoch=0)
    build(MoCo)(batch(1), epoch=0)  # no batch norm in its head


@pytest.mark.parametrize(("num_global", "num_local"), [(1, 0), (2, 4), (3, 0)])
def test_other_views_than_two_large_ones_are_refused(num_global, num_local):
    with pytest.raises(UserError, match=f"num_local {num_local}"):
        check_two_views(MultiCropConfig(num_global=num_global, num_local=num_local))
    check_two_views(MultiCropConfig(num_local=0))


def published(name):
    """Our name of a weight of MoCo, as the published program has it."""
    name = re.sub(r"^(encoder_[qk])\.head\.", r"\1.fc.", name).replace(".backbone.", ".")
    return {"queue.keys": "queue", "queue.pointer": "queue_ptr"}.get(name, name)


def test_mocos_weights_have_the_published_names_and_shapes():
    state = build(MoCo, "resnet_nano_reid").state_dict()
    names = {published(name): tuple(value.shape) for name, value in state.items()}
    assert len(names) == len(state)
    assert names.pop("queue.tracks") == (12,), "the published program knows none"
    assert (names["queue"], names["queue_ptr"]) == ((8, 12), (1,))
    width = names["encoder_q.fc.0.weight"][0]
    assert names["encoder_q.fc.2.weight"] == (8, width)
    assert {"encoder_q.conv1.weight", "encoder_k.layer4.0.bn2.running_var"} < set(names)
    assert {name.split(".")[0] for name in names} == {
        "encoder_q",
        "encoder_k",
        "queue",
        "queue_ptr",
    }


def test_a_checkpoint_gives_the_query_encoder(tmp_path):
    moby = build(MoBY)
    step(moby, [batch()])
    state = {"objective": moby.state_dict(), "spec": moby.spec.to_json()}
    state["backbones"] = moby.prefixes()
    torch.save(state, tmp_path / "step_00000001.pt")
    loaded = load_backbone(tmp_path / "step_00000001.pt").state_dict()
    kept = moby.backbone.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in loaded.items())
