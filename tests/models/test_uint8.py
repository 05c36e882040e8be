"""Every network normalises uint8 images itself, with its spec's statistics as they are then."""

from dataclasses import replace

import pytest
import torch

from transreid_ssl.models import HALF, LUPERSON, build_backbone, class_attention, normalise

NETWORKS = ["vit_nano_patch8_ics", "resnet_nano_reid", "mgn_resnet_nano"]


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    options = {"img_size": (48, 16), "mean": LUPERSON.mean, "std": LUPERSON.std}
    return build_backbone(request.param, **options).eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 48, 16), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_uint8_is_normalised_and_float_taken_as_it_is(network, images):
    before = images.clone()
    by_hand = normalise(images, *LUPERSON)
    assert torch.equal(network(images), network(by_hand))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(images), network(by_hand))
    network.spec = replace(network.spec, mean=HALF.mean, std=HALF.std)
    assert torch.equal(network(images), network(normalise(images, *HALF)))
    assert not torch.equal(network(images), network(by_hand))
    assert torch.equal(images, before)


def test_what_is_no_tensor_is_for_the_embedder(network):
    with pytest.raises(TypeError, match=r"not a list: transreid_ssl\.Embedder\(network\)"):
        network(["a.jpg"])


@torch.no_grad()
def test_so_do_the_other_ways_in(images):
    for name in NETWORKS[:2]:
        network = build_backbone(name, img_size=(48, 16)).eval()
        by_hand = normalise(images, network.spec.mean, network.spec.std)
        for found, expected in zip(
            network.forward_with_map(images), network.forward_with_map(by_hand)
        ):
            assert torch.equal(found, expected)
        assert torch.equal(network.forward_features(images), network.forward_features(by_hand))
    vit = build_backbone(NETWORKS[0], img_size=(48, 16)).eval()
    by_hand = normalise(images, vit.spec.mean, vit.spec.std)
    assert torch.equal(class_attention(vit, images), class_attention(vit, by_hand))


def test_one_graph_when_compiled_that_follows_the_spec(images):
    class Statistics(torch.nn.Module):
        spec = build_backbone(NETWORKS[0]).spec

        def forward(self, images):
            return 2 * normalise(images, self.spec.mean, self.spec.std)

    network = Statistics()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for statistics in (LUPERSON, HALF):
        network.spec = replace(network.spec, mean=statistics.mean, std=statistics.std)
        torch.testing.assert_close(compiled(images), 2 * normalise(images, *statistics))
