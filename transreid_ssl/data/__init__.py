"""Images: pools, labelled protocols, views, loading and validation."""

from transreid_ssl.data.images import CorruptImage, decode, resize
from transreid_ssl.data.pool import FilesPool, Pool, SubsetPool, open_pool
from transreid_ssl.data.reid import LabelledImages, ReIDProtocol

__all__ = [
    "CorruptImage",
    "FilesPool",
    "LabelledImages",
    "Pool",
    "ReIDProtocol",
    "SubsetPool",
    "decode",
    "open_pool",
    "resize",
]
