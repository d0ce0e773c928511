"""The package's logger.

STORM adds no handler to it or to the root logger, so an application's logging stays as it is. Without any handler,
Python writes warnings and errors to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

logger = logging.getLogger("storm")

_PACKAGE = str(Path(__file__).parent) + os.sep


class _Text(str):
    """Text of a warning of STORM's, which names a line of the user's, so that its module does not tell whose it is."""

    __slots__ = ()


def is_ours(warning: Warning | str) -> bool:
    """Whether a warning, an ordinary ``UserWarning``, is one of STORM's."""
    return isinstance(warning, Warning) and bool(warning.args) and isinstance(warning.args[0], _Text)


def warn(text: str) -> None:
    """Warn whoever called the package: the warning names the line outside of it that led here, however deep this is."""
    level, depth, frame = 1, 1, sys._getframe()
    while frame.f_back is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            # other packages may stand between two frames of ours: the outermost of ours counts
            level = depth + 1
        depth, frame = depth + 1, frame.f_back
    warnings.warn(_Text(text), UserWarning, stacklevel=level)
