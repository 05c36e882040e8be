"""Images: pools, labelled protocols, views, loading and validation."""

from transreid_ssl.data.images import CorruptImage, decode, resize
from transreid_ssl.data.loader import (
    LabelledDataset,
    ViewsDataset,
    image_loader,
    training_loader,
)
from transreid_ssl.data.pool import FilesPool, Pool, SubsetPool, open_pool
from transreid_ssl.data.reid import LabelledImages, ReIDProtocol
from transreid_ssl.data.samplers import EpochSampler, IdentitySampler

__all__ = [
    "CorruptImage",
    "EpochSampler",
    "FilesPool",
    "IdentitySampler",
    "LabelledDataset",
    "LabelledImages",
    "Pool",
    "ReIDProtocol",
    "SubsetPool",
    "ViewsDataset",
    "decode",
    "image_loader",
    "open_pool",
    "resize",
    "training_loader",
]
