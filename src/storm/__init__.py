"""STORM: spatial transcriptomics and H&E histology with one multimodal foundation model.

Everything is loaded on first use: ``import storm`` alone imports neither torch nor spatialdata. The names are declared
once, in the type stub beside this file.
"""

import lazy_loader

from storm._fork import watch_forks

__version__ = "0.2.0.dev0"

watch_forks()
del watch_forks

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
