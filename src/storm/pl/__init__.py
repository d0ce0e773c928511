"""Plots: each function draws from the keys that a tool wrote and returns matplotlib axes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
