"""Less memory for more time changes no gradient, and running statistics move once a pass."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from transreid_ssl.models import build_backbone
from transreid_ssl.models.norms import group_norms


@pytest.mark.parametrize("norm_images", [None, 2])
@pytest.mark.parametrize("name", ["resnet_nano_reid", "mgn_resnet_nano", "timm:test_resnet"])
def test_what_is_computed_twice_is_the_same(name, norm_images):
    torch.manual_seed(0)
    plain = build_backbone(name, img_size=(64, 32)).train()
    sparing = copy.deepcopy(plain)
    sparing.set_grad_checkpointing(True)  # before norms are put in the place of others, as runs do
    kept = []
    for model in (plain, sparing):
        group_norms(model, device="cpu", num_processes=1, norm_images=norm_images, images=4)
        norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            size = (4, 3, 64, 32)
            images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
            kept.append(0)

            def note(tensor, kept=kept):
                kept[-1] += tensor.nbytes
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                output = model(images)
            output.square().sum().backward()
        assert [norm.momentum for norm in norms] == momenta
    assert kept[2] < 0.6 * kept[0], "nothing was left out"
    for (label, expected), found in zip(plain.named_buffers(), sparing.buffers(), strict=True):
        assert torch.equal(found, expected), label
    for (label, expected), found in zip(plain.named_parameters(), sparing.parameters()):
        torch.testing.assert_close(found.grad, expected.grad, msg=label)


@pytest.mark.parametrize("name", ["resnet_nano_reid", "mgn_resnet_nano"])
def test_residual_blocks_that_are_computed_twice_are_not_compiled(name, monkeypatch):
    """The second time they would be another program, which may keep other numbers."""
    monkeypatch.setattr("transreid_ssl.models.resnet.compiled", None)  # whoever calls it fails
    model = build_backbone(name, img_size=(64, 32)).train()
    model.set_grad_checkpointing(True)
    model.compile_blocks()
    model(torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8)).sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler's
def test_a_network_of_timm_that_is_compiled_whole_is_one_program():
    torch.compiler.reset()
    plain = build_backbone("timm:test_resnet", img_size=(64, 32)).train()
    model = copy.deepcopy(plain)
    model.set_grad_checkpointing(True)
    counters.clear()
    images = torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8)
    torch.compile(model, backend="aot_eager")(images).square().sum().backward()
    plain(images).square().sum().backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    for expected, found in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
