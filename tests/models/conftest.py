import pytest
import torch


@pytest.fixture(autouse=True)
def seed():
    """The same random networks and images in every run."""
    torch.manual_seed(0)
