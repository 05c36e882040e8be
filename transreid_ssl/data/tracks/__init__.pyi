from .command import run_clip as run_clip
from .command import run_tracks as run_tracks
from .pool import crops_of_pool as crops_of_pool
from .pool import crops_of_videos as crops_of_videos
from .settings import Clip as Clip
from .settings import CropRules as CropRules
from .settings import Tracks as Tracks
from .sources import find_videos as find_videos
