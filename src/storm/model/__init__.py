"""The STORM network in pure PyTorch: tensors in, tensors out."""

from storm.model.batch import StormOutput, WindowBatch
from storm.model.build import SIZES, build_storm
from storm.model.config import StormConfig
from storm.model.outcome import Outcome, OutcomeConfig
from storm.model.storm import Storm

__all__ = [
    "SIZES",
    "Outcome",
    "OutcomeConfig",
    "Storm",
    "StormConfig",
    "StormOutput",
    "WindowBatch",
    "build_storm",
]
