"""Readers: one thin file per platform, each returning SpatialData with a coordinate system ``"um"``; and exports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
