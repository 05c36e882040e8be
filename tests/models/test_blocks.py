"""Crops of several sizes in one matrix of tokens are what they are one after the other."""

import copy
import pickle

import pytest
import torch

from transreid_ssl.models import blocks, build_backbone
from transreid_ssl.models.blocks import PackedBlock

NANO = "vit_nano_patch8_reid"


@pytest.fixture
def groups():
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, 3, 64, 32), (6, 3, 32, 16)]
    return [torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for size in sizes]


def network(**options):
    torch.manual_seed(0)
    return build_backbone(NANO, img_size=(64, 32), **options)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("options", [{}, {"gem": True}, {"jpm": True}])
def test_groups_are_passes_of_their_own(groups, options):
    together = network(drop_path=0.3, **options)
    alone = copy.deepcopy(together)
    torch.manual_seed(1)
    found = together.forward_groups(groups)
    torch.manual_seed(1)
    expected = torch.cat([alone(group) for group in groups])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.square().sum().backward(), expected.square().sum().backward()
    for name, gradient in gradients(alone).items():
        torch.testing.assert_close(gradients(together)[name], gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("leading", [1, 3])
def test_leading_tokens_leave_the_last_block_as_they_do_with_the_others(groups, leading):
    model = network(drop_path=0.3)
    tokens = [torch.randn(4, 9, model.embed_dim), torch.randn(2, 5, model.embed_dim)]
    found = []
    for count in (leading, None):
        torch.manual_seed(1)
        found.append(model._run(model.blocks, tokens, count))
    for some, everything in zip(*found, strict=True):
        torch.testing.assert_close(some, everything[:, :leading], rtol=1e-5, atol=1e-5)


def test_the_paths_dropped_are_timms(groups):
    model = network(drop_path=0.5)
    tokens = torch.randn(8, 5, model.embed_dim)
    torch.manual_seed(1)
    expected = tokens
    for block in model.blocks:
        expected = block(expected)  # timm's own way
    torch.manual_seed(1)
    torch.testing.assert_close(model._run(model.blocks, [tokens])[0], expected)
    assert not torch.allclose(model.eval()._run(model.blocks, [tokens])[0], expected)


def test_paths_that_are_drawn_at_once_are_kept_as_often_as_they_should():
    shares = (0.9, 0.5, 1 - 1e-6)
    drawn = blocks._draw_at_once(shares, (15_000, 5_000), torch.device("cpu"))
    for row, share in zip(drawn, shares, strict=True):
        assert set(row.tolist()) <= {0.0, float(torch.tensor(1.0) / share)}
        assert (row > 0).float().mean().item() == pytest.approx(share, abs=0.02)
    assert drawn[0, :100].count_nonzero() != drawn[1, :100].count_nonzero()


def test_what_is_kept_back_for_checkpointing_changes_nothing(groups):
    model = network(drop_path=0.3)
    sparing = copy.deepcopy(model)
    sparing.set_grad_checkpointing(True)
    for one in (model, sparing):
        torch.manual_seed(1)
        one.forward_groups(groups).square().sum().backward()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradients(sparing)[name], gradient)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler's
def test_compiled_blocks_are_one_program_for_all_and_evaluate_as_before(groups, monkeypatch):
    graphs = []

    def backend(graph, _examples):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(PackedBlock.forward_packed, backend=backend, dynamic=False)
    monkeypatch.setattr("transreid_ssl.models.vit.compiled_block", lambda: compiled)
    plain = network(drop_path=0.3)
    model = copy.deepcopy(plain)
    model.compile_blocks()
    for one in (plain, model):
        torch.manual_seed(1)
        one.forward_groups(groups).square().sum().backward()
    assert len(graphs) == 2 < len(model.blocks)  # the first block drops no path, those after it do
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(model)[name], gradient)
    assert torch.equal(model.eval()(groups[0]), plain.eval()(groups[0]))
    assert len(graphs) == 2
    pickle.dumps(model)
