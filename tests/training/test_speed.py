"""Which networks a run compiles or replays; the capture of graphs itself needs a GPU."""

import copy

import pytest
import torch
from torch import nn

from transreid_ssl.finetune import SupervisedObjective
from transreid_ssl.models import build_backbone
from transreid_ssl.training import RunSettings
from transreid_ssl.training.speed import make_fast, replay


class Network(nn.Module):
    """Features whose running mean moves, which may be asked for a second result."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, values, cameras=None, twice=False):
        found = self.norm(self.linear(values))
        return (found, 2 * found) if twice else found


@pytest.fixture
def captured(monkeypatch):
    """Stands for CUDA's capture: it runs the network a few times on the samples, as that does."""
    made = []

    def capture(network, samples, allow_unused_input):
        assert allow_unused_input
        for _ in range(3):
            network(*samples)
        made.append([sample.shape for sample in samples])
        return network

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", torch.set_rng_state)
    return made


@pytest.mark.parametrize("options", [{}, {"twice": True}])
@pytest.mark.parametrize("cameras", [None, torch.zeros(4)])
def test_a_replayed_network_computes_what_it_did(captured, options, cameras):
    torch.manual_seed(0)
    plain = Network()
    network, values = copy.deepcopy(plain), torch.randn(4, 3)
    replay(network)
    for _ in range(2):
        for ours, theirs in zip(
            network(values, cameras, **options), plain(values, cameras, **options)
        ):
            assert torch.equal(ours, theirs)
    assert len(captured) == 1
    for ours, theirs in zip(network.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_other_batches_and_evaluation_are_not_replayed(captured):
    plain = Network()
    network, values = copy.deepcopy(plain), torch.randn(4, 3)
    replay(network)
    network.eval()(values), network.train()
    with torch.no_grad():
        network(values)
    assert not captured
    network(values)
    assert network(values[:3]).shape == (3, 2)
    assert captured == [[values.shape]]


@pytest.mark.parametrize(("mode", "compiled"), [("auto", 0), (False, 0), (True, 1)])
def test_a_cpu_compiles_when_asked_to(monkeypatch, mode, compiled):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.append(options))
    backbone = build_backbone("vit_nano_patch8_reid", img_size=(32, 16))
    settings = RunSettings(compile=mode)
    make_fast(SupervisedObjective(backbone, 2), settings, torch.device("cpu"), 1)
    assert len(asked) == compiled


@pytest.mark.parametrize(("mode", "compiled"), [("auto", 0), (True, 1)])
def test_other_networks_are_compiled_whole_when_asked_to(monkeypatch, mode, compiled):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda network: asked.append(network))
    backbone = build_backbone("resnet_nano_reid")
    settings = RunSettings(compile=mode)
    make_fast(SupervisedObjective(backbone, 2), settings, torch.device("cpu"), 1)
    assert len(asked) == compiled


@pytest.mark.parametrize(
    ("processes", "accumulation", "replayed"), [(1, 1, True), (2, 1, False), (1, 2, False)]
)
def test_a_gpu_replays_where_gradients_are_taken_at_once(
    monkeypatch, processes, accumulation, replayed
):
    monkeypatch.setattr("transreid_ssl.training.speed.has_triton", lambda: True)
    backbone = build_backbone("vit_nano_patch8_reid", img_size=(32, 16))
    settings = RunSettings(compile="auto", accumulation=accumulation)
    objective = SupervisedObjective(backbone, 2)
    make_fast(objective, settings, torch.device("cuda"), processes)
    assert ("forward" in vars(backbone)) is replayed
