"""Images: pools, labelled protocols, views, loading and validation."""

from transreid_ssl.data.doctor import check_protocol, find_broken, leave_out, screen
from transreid_ssl.data.images import CorruptImage, decode, resize
from transreid_ssl.data.loader import (
    LabelledDataset,
    ViewsDataset,
    decoded,
    image_loader,
    open_loader,
    training_loader,
)
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.people import PeopleConfig, PeoplePool, people_protocol
from transreid_ssl.data.pool import ConcatPool, FilesPool, Pool, SubsetPool
from transreid_ssl.data.readers import open_reid
from transreid_ssl.data.reid import LabelledImages, ReIDProtocol
from transreid_ssl.data.samplers import ClusterSampler, EpochSampler, IdentitySampler
from transreid_ssl.data.views import MultiCrop, MultiCropConfig, ReIDAugment, ReIDAugmentConfig

__all__ = [
    "ClusterSampler",
    "ConcatPool",
    "CorruptImage",
    "EpochSampler",
    "FilesPool",
    "IdentitySampler",
    "LabelledDataset",
    "LabelledImages",
    "MultiCrop",
    "MultiCropConfig",
    "PeopleConfig",
    "PeoplePool",
    "Pool",
    "ReIDAugment",
    "ReIDAugmentConfig",
    "ReIDProtocol",
    "SubsetPool",
    "ViewsDataset",
    "check_protocol",
    "decode",
    "decoded",
    "find_broken",
    "image_loader",
    "leave_out",
    "open_loader",
    "open_pool",
    "open_reid",
    "people_protocol",
    "resize",
    "screen",
    "training_loader",
]
