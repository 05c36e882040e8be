"""Images: pools, labelled protocols, views, loading and validation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "budget",
        "doctor",
        "feature_files",
        "images",
        "packing",
        "reid",
        "subset",
        "tracks",
    ],
    submod_attrs={
        "doctor": ["check_protocol", "find_broken", "leave_out", "screen"],
        "images": ["CorruptImage", "decode", "resize"],
        "loader": [
            "LabelledDataset",
            "ViewsDataset",
            "decoded",
            "image_loader",
            "open_loader",
            "training_loader",
        ],
        "mates": ["Mates"],
        "open": ["open_pool", "open_tracks"],
        "people": ["PeopleConfig", "PeoplePool", "people_protocol"],
        "pool": ["ConcatPool", "FilesPool", "Pool", "SubsetPool"],
        "readers": ["open_reid"],
        "reid": ["LabelledImages", "ReIDProtocol"],
        "samplers": ["ClusterSampler", "EpochSampler", "IdentitySampler"],
        "settings": ["MultiCropConfig", "ReIDAugmentConfig"],
        "views": ["MultiCrop", "ReIDAugment"],
    },
)
