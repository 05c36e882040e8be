"""Losses against numbers that the authors' programs gave, on inputs that are made from names.

Computed on a CPU in float32 with the programs of DINOv2, iBOT, PASS, MoCo v3 and MoBY.
"""

import pytest
import torch
from torch.nn import functional as F

from reference import normal
from transreid_ssl.pretrain.contrast import info_nce
from transreid_ssl.pretrain.cross_view import num_pairs
from transreid_ssl.pretrain.dino import DINOLoss
from transreid_ssl.pretrain.koleo import koleo_loss
from transreid_ssl.pretrain.masked_patches import masked_loss
from transreid_ssl.pretrain.sinkhorn import sinkhorn


def tensor(tag, *shape):
    return torch.from_numpy(normal(tag, shape))


def test_koleo_is_dinov2s():
    features = tensor("koleo", 12, 16).requires_grad_()
    loss = koleo_loss(features)
    loss.backward()
    assert loss.item() == pytest.approx(-0.0357005782, rel=1e-5)
    expected = [0.0027475590, 0.0012395587, -0.0066717434]
    assert features.grad[0, :3].tolist() == pytest.approx(expected, rel=1e-4)


def test_sinkhorn_is_dinov2s():
    found = sinkhorn(tensor("sinkhorn", 10, 32) / 0.5).exp()
    expected = [0.00160507986, 2.38978791e-05, 0.0357547887, 0.146214783]
    assert found[0, :4].tolist() == pytest.approx(expected, rel=1e-4)
    assert found[:, 0].sum().item() == pytest.approx(0.300494432, rel=1e-5)


def test_the_loss_of_masked_patches_is_ibots():
    student, teacher = tensor("patch_student", 6, 8, 20), tensor("patch_teacher", 6, 8, 20)
    mask = tensor("patch_mask", 6, 2, 4).flatten(1) > 0.3
    mask[1] = False  # an image that is not masked counts too
    weights = mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)
    targets = (teacher[mask] / 0.04).softmax(dim=-1)
    loss = masked_loss(student[mask], targets, weights[mask], 0.1)
    assert loss.item() == pytest.approx(14.9963512, rel=1e-5)


def test_part_tokens_weigh_as_in_pass_and_their_centres_move():
    images, outputs = 3, 20
    large = [tensor(f"large{i}", 2 * images, outputs) for i in range(4)]
    teacher = [tensor(f"teacher{i}", 2 * images, outputs) for i in range(4)]
    classes = [tensor(f"small_class{i}", 3 * images, outputs) for i in range(3)]
    parts = [tensor(f"small_part{i}", 3 * images, outputs) for i in range(3)]
    losses = [DINOLoss(outputs, 11), *(DINOLoss(outputs, 5) for _ in range(3))]
    students = [torch.cat([large[0], *classes])]
    students += [torch.cat(pair) for pair in zip(large[1:], parts)]
    pairs = torch.tensor([num_pairs(11, 2), *[num_pairs(5, 2)] * 3])
    found = []
    for _ in range(3):
        each = [loss(s, t, 0) for loss, s, t in zip(losses, students, teacher)]
        found.append(torch.dot(pairs / pairs.sum(), torch.stack(each)).item())
        for loss in losses:
            loss.update_center()
    assert found == pytest.approx([19.0839729, 19.0398006, 18.9757442], rel=1e-5)


def test_contrasts_are_those_of_mocov3_and_moby():
    queries, keys = (F.normalize(tensor(name, 6, 8), dim=1) for name in ("queries", "keys"))
    loss = 2 * 0.2 * info_nce(queries, keys, 0.2)[0]
    assert loss.item() == pytest.approx(0.9915189, rel=1e-5)
    queue = F.normalize(tensor("queue", 8, 20), dim=0)
    assert info_nce(queries, keys, 0.2, queue=queue)[0].item() == pytest.approx(3.7363498, rel=1e-5)
