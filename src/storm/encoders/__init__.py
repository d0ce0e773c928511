"""Tile encoders: networks from RGB tiles to vectors, each with its own normalisation, scale and licence."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
