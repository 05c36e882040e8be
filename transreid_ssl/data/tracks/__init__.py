"""From videos with tracks, or from crops whose names tell theirs, to a pool that knows them."""

from transreid_ssl.data.tracks.choice import CropRules
from transreid_ssl.data.tracks.pool import (
    LAYOUTS,
    Crops,
    crops_of_pool,
    crops_of_videos,
    describe_left_out,
    layout_of,
)
from transreid_ssl.data.tracks.sources import Video, find_videos

__all__ = [
    "LAYOUTS",
    "CropRules",
    "Crops",
    "Video",
    "crops_of_pool",
    "crops_of_videos",
    "describe_left_out",
    "find_videos",
    "layout_of",
]
