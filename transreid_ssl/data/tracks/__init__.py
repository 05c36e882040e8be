"""From videos with tracks, or from crops whose names tell theirs, to a pool that knows them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
