"""The package's logger: no handler on the root logger, so an application's own logging stays as it is."""

from __future__ import annotations

import logging

logger = logging.getLogger("storm")
logger.addHandler(logging.NullHandler())
