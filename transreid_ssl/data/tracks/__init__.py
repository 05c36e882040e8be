"""From videos with tracks, or from crops whose names tell theirs, to a pool that knows them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "command": ["run_clip", "run_tracks"],
        "pool": ["crops_of_pool", "crops_of_videos"],
        "settings": ["Clip", "CropRules", "Tracks"],
        "sources": ["find_videos"],
    },
)
