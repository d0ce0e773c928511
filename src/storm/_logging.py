"""The package's logger.

It has no handler of its own, neither here nor on the root logger: an application's logging stays as it is, and where
there is none, Python writes warnings, and nothing less, to stderr.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("storm")
