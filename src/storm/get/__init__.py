"""Results that are tables, as data frames; each function is called as the tool that made it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
