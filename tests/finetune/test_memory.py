"""The cluster memory against the published program, a plain loop, and several processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import launch
from reference import normal
from shared_memory import batch, shared_update
from transreid_ssl.finetune import ClusterMemory
from transreid_ssl.finetune.memory import cluster_loss

REFERENCE = np.load(Path(__file__).parent / "reference_memory.npz")


@pytest.mark.parametrize("kind", ["mean", "hard"])
def test_equals_the_published_program(kind):
    features = torch.from_numpy(normal("mem_in", (32, 64))).requires_grad_()
    memory = ClusterMemory(
        torch.from_numpy(normal("memory", (10, 64))),
        temperature=0.05, momentum=0.2, hard=kind == "hard",
    )  # fmt: skip
    loss = memory(features, torch.from_numpy(REFERENCE["labels"]))
    loss.backward()
    memory.update()
    for name, found in (
        ("loss", loss.detach()),
        ("grad", features.grad),
        ("features_after", memory.features),
    ):
        expected = torch.from_numpy(REFERENCE[f"{kind}/{name}"])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def loop_update(memory, features, labels, momentum, hard):
    """One image or one cluster at a time, in float64."""
    memory = F.normalize(memory.double(), dim=1)
    features = F.normalize(features.double(), dim=1)
    pairs = list(zip(features, labels.tolist()))
    if hard:
        pairs = [
            (
                min((x for x, y in pairs if y == label), key=lambda x: float(x @ memory[label])),
                label,
            )
            for label in sorted(set(labels.tolist()))
        ]
    for x, y in pairs:
        memory[y] = F.normalize(momentum * memory[y] + (1 - momentum) * x, dim=0)
    return memory


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_update_equals_the_loop(hard, seed):
    features, labels = batch(seed)
    start = torch.randn(8, 5, generator=torch.Generator().manual_seed(9))
    memory = ClusterMemory(start, momentum=0.7, hard=hard)
    memory(features, labels)
    memory.update()
    expected = loop_update(start, features, labels, 0.7, hard)
    torch.testing.assert_close(memory.features.double(), expected, rtol=1e-5, atol=1e-6)
    absent = [label for label in range(8) if label not in labels]
    torch.testing.assert_close(memory.features[absent], F.normalize(start[absent], dim=1))


def test_loss_equals_the_definition():
    features, labels = batch(4)
    vectors = F.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    losses = []
    for x, y in zip(F.normalize(features, dim=1).double(), labels.tolist()):
        scores = torch.stack([(x @ vector.double() / 0.1).exp() for vector in vectors])
        losses.append(-(scores[y] / scores.sum()).log())
    found = cluster_loss(features.bfloat16().float(), labels, vectors, 0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        cluster_loss(features, labels, vectors, 0.1).double(), torch.stack(losses).mean()
    )


def test_micro_batches_see_the_same_vectors_and_update_once():
    features, labels = batch(5, size=24)
    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    whole, parts = (ClusterMemory(start, hard=True) for _ in range(2))
    loss = whole(features, labels)
    split = [parts(x, y) for x, y in zip(features.chunk(3), labels.chunk(3))]
    torch.testing.assert_close(torch.stack(split).mean(), loss)
    whole.update()
    parts.update()
    torch.testing.assert_close(parts.features, whole.features, rtol=0, atol=0)


def test_evaluation_leaves_no_trace():
    features, labels = batch(6)
    memory = ClusterMemory(torch.randn(6, 5)).eval()
    before = memory.features.clone()
    memory(features, labels)
    memory.train().update()
    torch.testing.assert_close(memory.features, before, rtol=0, atol=0)


def test_two_processes_update_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    launch.each(shared_update, str(tmp_path), processes=2)
    features, labels = batch(7, size=24)
    memory = ClusterMemory(torch.ones(6, 5).cumsum(0).cumsum(1).sin(), momentum=0.5)
    memory(features, labels)
    memory.update()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, memory.features, rtol=0, atol=0)


def test_images_of_a_step_that_is_not_made_leave_no_trace():
    memory = ClusterMemory(torch.eye(3))
    memory(torch.ones(2, 3), torch.tensor([0, 1]))
    memory.forget()
    memory.update()
    assert torch.equal(memory.features, torch.eye(3))
