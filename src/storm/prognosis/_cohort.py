"""The cohort, which the room below keeps on disk."""

from storm._bridge.cohort import Bag, Cohort

__all__ = ["Bag", "Cohort"]
