"""Pseudo labels: what is embedded, clustered, said, and refused."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import adjusted_rand_score
from torch import nn

from transreid_ssl.data import LabelledImages, open_reid
from transreid_ssl.errors import UserError
from transreid_ssl.finetune import ClusterSettings, Labeller
from transreid_ssl.finetune.pseudo_labels import figures
from transreid_ssl.models import Striped, build_backbone
from transreid_ssl.retrieval import cluster, embed_images, whiten
from transreid_ssl.training.health import feature_spread

SETTINGS = ClusterSettings(k1=5, k2=2, eps=0.5, min_samples=2, embed_batch_size=7)


class Colours(nn.Module):
    """The mean colours of six stripes: enough to tell a few generated people apart."""

    @dataclasses.dataclass
    class Spec:
        img_size = (32, 16)
        interpolation = "linear"
        embed_dim = 18

    spec = Spec()

    def __init__(self):
        super().__init__()
        self.grey = nn.Parameter(torch.tensor(115.0))

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images - self.grey, (6, 1)).flatten(1)


class Constant(Colours):
    def forward(self, images):
        return torch.ones(len(images), 18)


@pytest.fixture(scope="module")
def people():
    return open_reid("demo:identities=8,images=6,height=32,width=16,difficulty=easy").train


def labeller(images, **changes):
    return Labeller(images, dataclasses.replace(SETTINGS, **changes), Accelerator(cpu=True))


def test_clusters_their_centres_and_what_is_said(people):
    found = labeller(people)(Colours(), epoch=0, epochs=3)
    assert found.labels.shape == (48,)
    assert len(found.centres) == found.labels.max() + 1 == found.figures["clusters/found"] >= 2
    assert found.figures["clusters/true_identities"] == 8
    assert found.figures["clusters/adjusted_rand_index"] > 0.2
    assert f"{len(found.centres)} clusters (8 people)" in found.describe()
    again = labeller(people, embed_batch_size=48)(Colours(), epoch=0, epochs=3)
    assert np.array_equal(found.labels, again.labels)


def test_centres_are_means_of_unit_features(people):
    features, index = embed_images(Colours(), people)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(48))
    assert index.tolist() == list(range(48))
    answer = labeller(people)(Colours(), 0, 1)
    for label, centre in enumerate(answer.centres):
        members = features[torch.from_numpy(answer.labels == label)]
        torch.testing.assert_close(centre, members.mean(dim=0))


@pytest.mark.parametrize("neck", [True, False])
def test_stripes_are_clustered_whitened_and_what_is_trained_is_contrasted(people, neck):
    torch.manual_seed(0)
    network = build_backbone("vit_nano_patch8_conv", img_size=(32, 16), feature_norm=neck)
    found = labeller(people, parts=4)(network, 0, 1)
    own, stripes = embed_images(Striped(network, 4), people)[0].tensor_split([128], dim=1)
    own, stripes = (nn.functional.normalize(part) for part in (own, stripes))
    torch.testing.assert_close(own, embed_images(network, people)[0])
    stripes = whiten(stripes.numpy())
    labels = cluster(torch.from_numpy(stripes), 0.5, 2, k1=5, k2=2)
    assert np.array_equal(found.labels, labels)
    for label, centre in enumerate(found.centres):
        members = own[torch.from_numpy(labels == label)]
        torch.testing.assert_close(centre, members.mean(dim=0))


def test_outliers_can_be_clusters_of_their_own(people):
    changes = {"min_samples": 5, "eps": 0.4}
    dropped = labeller(people, **changes)(Colours(), 0, 1)
    alone = int((dropped.labels < 0).sum())
    assert alone > 0
    kept = labeller(people, outliers="singletons", **changes)(Colours(), 0, 1)
    assert (kept.labels >= 0).all()
    assert len(kept.centres) == len(dropped.centres) + alone
    assert np.array_equal(kept.labels[dropped.labels >= 0], dropped.labels[dropped.labels >= 0])
    assert kept.figures == dropped.figures  # singletons are not found clusters


def test_a_broken_image_is_left_out(people):
    class Broken:
        names, fingerprint = people.names, "broken"

        def __len__(self):
            return 48

        def read(self, index):
            return b"not an image" if index == 10 else people.read(index)

    images = LabelledImages(Broken(), people.identities, people.cameras)
    found = labeller(images, outliers="singletons")(Colours(), 0, 1)
    assert np.flatnonzero(found.labels < 0).tolist() == [10]
    assert found.figures["clusters/unreadable"] == 1
    assert found.figures["clusters/outliers"] + (
        found.figures["clusters/mean_size"] * found.figures["clusters/found"]
    ) == pytest.approx(47)
    assert "; 1 image could not be read" in found.describe()


def test_too_many_broken_images_stop_the_run(people):
    class Broken:
        names, fingerprint = people.names, "broken"

        def __len__(self):
            return 48

        def read(self, index):
            return b"not an image" if index % 8 == 0 else people.read(index)

    images = LabelledImages(Broken(), people.identities, people.cameras)
    strict = Labeller(images, SETTINGS, Accelerator(cpu=True), max_bad_fraction=0.1)
    with pytest.raises(UserError, match="6 of 48 images could not be read"):
        strict(Colours(), 0, 1)


def test_collapse_shows_behind_a_batch_norm(people):
    backbone = build_backbone("vit_nano_patch8_reid", img_size=(32, 16), feature_norm=True)
    nn.init.zeros_(backbone.norm.weight)
    nn.init.ones_(backbone.norm.bias)
    with torch.no_grad():  # images differ in the third digit, which the neck blows up
        backbone.norm.weight.add_(3e-3)
    images = torch.randn(16, 3, 32, 16)
    for _ in range(150):
        backbone(images)
    backbone.eval()
    assert feature_spread(backbone(images)) > 0.01
    with pytest.raises(UserError, match="collapsed"):
        labeller(people)(backbone, 0, 1)


@pytest.mark.parametrize(
    ("network", "changes", "said"),
    [
        (Constant(), {}, r"collapsed .*--optim\.lr"),
        (Colours(), {"eps": 0.01, "min_samples": 9},
         r"no cluster was found among 48 .*eps 0.01 and min_samples 9: the 9th .*"
         r"distance \d\.\d\d / \d\.\d\d / \d\.\d\d .*raise --clusters\.eps"),
        (Colours(), {"eps": 1.0, "k1": 40, "k2": 20}, r"one cluster was found .*lower"),
        (Colours(), {"max_clusters": 2}, r"clusters were found, more than .*max_clusters 2: raise"),
        (Colours(), {"k1": 60}, r"--clusters\.k1 60 is more than the 48 images"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_one_line(people, network, changes, said):
    with pytest.raises(UserError, match=said) as error:
        labeller(people, **changes)(network, 0, 1)
    assert "\n" not in str(error.value)


def test_figures_count_outliers_as_clusters_of_one():
    truth = np.array([0, 0, 0, 1, 1, 2, -1])
    labels = np.array([0, 0, -1, 1, -1, 1, 0])
    found = figures(labels, truth)
    assert (found["clusters/found"], found["clusters/outliers"]) == (2, 2)
    assert (found["clusters/mean_size"], found["clusters/largest_size"]) == (2.5, 3)
    assert found["clusters/true_identities"] == 3
    expected = adjusted_rand_score([0, 0, 0, 1, 1, 2], [0, 0, 7, 1, 8, 1])
    assert found["clusters/adjusted_rand_index"] == pytest.approx(expected)
    assert figures(truth, truth)["clusters/v_measure"] == 1.0
    assert set(figures(labels, np.full(7, -1))) == {
        "clusters/found", "clusters/outliers", "clusters/mean_size", "clusters/largest_size",
    }  # fmt: skip
