"""Tools: each function does one thing to an object and leaves its result there, under a key."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
