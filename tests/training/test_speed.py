"""Which networks a run compiles."""

import pytest
import torch
from torch import nn
from torch._functorch import config as functorch

from transreid_ssl.finetune import SupervisedObjective
from transreid_ssl.finetune.mgn import MGNObjective
from transreid_ssl.models import MGN, ReIDViT, build_backbone
from transreid_ssl.models.resnet import Compilable
from transreid_ssl.training import RunSettings
from transreid_ssl.training.speed import make_fast


@pytest.mark.parametrize(("mode", "compiled"), [("auto", False), (False, False), (True, True)])
def test_a_cpu_compiles_when_asked_to(mode, compiled):
    backbone = build_backbone("vit_nano_patch8_reid", img_size=(32, 16))
    settings = RunSettings(compile=mode)
    make_fast(SupervisedObjective(backbone, 2), settings, torch.device("cpu"))
    assert backbone.compiles_blocks is compiled


@pytest.mark.parametrize(("mode", "compiled"), [("auto", 0), (True, 1)])
def test_other_networks_are_compiled_whole_when_asked_to(monkeypatch, mode, compiled):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda network: asked.append(network))
    backbone = build_backbone("timm:test_resnet", img_size=(64, 32))
    settings = RunSettings(compile=mode)
    make_fast(SupervisedObjective(backbone, 2), settings, torch.device("cpu"))
    assert len(asked) == compiled


@pytest.mark.parametrize("name", ["vit_nano_patch8_reid", "resnet_nano_reid", "mgn_resnet_nano"])
def test_a_gpu_compiles_by_itself(monkeypatch, name):
    monkeypatch.setattr("transreid_ssl.training.speed.has_triton", lambda: True)
    backbone = build_backbone(name, img_size=(48, 16))
    kind = MGNObjective if isinstance(backbone, MGN) else SupervisedObjective
    with functorch.patch(activation_memory_budget=1.0):
        make_fast(kind(backbone, 2), RunSettings(compile_memory=0.5), torch.device("cuda"))
        assert functorch.activation_memory_budget == 0.5
    if isinstance(backbone, ReIDViT):
        assert backbone.compiles_blocks
    else:
        blocks = [module for module in backbone.modules() if isinstance(module, Compilable)]
        assert blocks
        assert all(block.compiles for block in blocks)
