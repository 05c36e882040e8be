"""Retrieval: features of images, nearest neighbours, and what a ranking is worth."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
