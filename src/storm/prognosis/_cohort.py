"""The cohort, which the room below keeps on disk."""

from storm._bridge.cohort import Cohort
from storm._bridge.cohort_bags import Bag

__all__ = ["Bag", "Cohort"]
