"""Crop boxes beside torchvision's."""

import numpy as np
import pytest
import torch
from torchvision import transforms

from transreid_ssl.data.boxes import sample_boxes


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(144, 64), (200, 70), (60, 90)])
@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.05, 0.4)])
def test_boxes_are_distributed_as_torchvisions(shape, scale):
    height, width = shape
    number = 3000
    ratio = (3 / 4, 4 / 3)
    rng = np.random.default_rng(5)
    ours = np.array(sample_boxes(rng, height, width, np.array([scale] * number), ratio))
    blank = torch.empty(3, height, width)
    get_params = transforms.RandomResizedCrop.get_params
    theirs = np.array([get_params(blank, scale, ratio) for _ in range(number)])
    for box_figure in (
        lambda box: box[:, 2] * box[:, 3] / (height * width),  # area
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0] / height,
        lambda box: box[:, 1] / width,
        lambda box: np.all(box == box_mode(box), axis=1),  # the fallback's share
    ):
        a, b = box_figure(ours).astype(float), box_figure(theirs).astype(float)
        error = np.hypot(a.std(), b.std()) / number**0.5
        assert abs(a.mean() - b.mean()) <= 4 * error + 1e-12
        assert a.std() == pytest.approx(b.std(), rel=0.1, abs=0.01)


def box_mode(boxes: np.ndarray) -> np.ndarray:
    distinct, counts = np.unique(boxes, axis=0, return_counts=True)
    return distinct[counts.argmax()]


def test_a_crop_that_never_fits_is_the_centre_as_in_torchvision():
    ratio = (3 / 4, 4 / 3)
    for height, width in ((90, 20), (20, 90), (50, 50), (1, 40), (40, 1), (1, 1), (101, 51)):
        rng = np.random.default_rng(0)
        (ours,) = sample_boxes(rng, height, width, np.array([(4.0, 4.0)]), ratio)
        blank = torch.empty(3, height, width)
        assert ours == transforms.RandomResizedCrop.get_params(blank, (4.0, 4.0), ratio)
