"""From videos with tracks, or from crops whose names tell theirs, to a pool that knows them."""

from transreid_ssl.data.tracks.choice import CropRules
from transreid_ssl.data.tracks.pool import crops_of_pool, crops_of_videos
from transreid_ssl.data.tracks.sources import find_videos

__all__ = ["CropRules", "crops_of_pool", "crops_of_videos", "find_videos"]
