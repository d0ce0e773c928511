"""Models as a whole: built, loaded, stored, published."""

from storm._loading.build import build_model
from storm._loading.fetch import list_models
from storm._loading.folder import read_model
from storm._loading.head import ExpressionHead
from storm._loading.load import load_model
from storm._loading.model import READOUTS, StormModel

__all__ = ["READOUTS", "ExpressionHead", "StormModel", "build_model", "list_models", "load_model", "read_model"]
