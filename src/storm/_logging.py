"""The package's logger.

STORM adds no handler to it or to the root logger, so an application's logging stays as it is. Without any handler,
Python writes warnings and errors to stderr.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("storm")
