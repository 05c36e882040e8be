"""The ways to score images, by name."""

from typing import Literal

LikenessMethod = Literal["density-ratio", "nearest", "moments"]
"""Those that ask one network how like the target's an image is."""
Method = Literal["cfs", "cfs-centred", "cfs-whitened", LikenessMethod, "random"]
