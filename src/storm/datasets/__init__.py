"""Example data: sections that are drawn to a known truth, and public sections that are fetched."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
