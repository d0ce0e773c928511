"""Models as a whole: built, loaded, stored, published."""

from storm._loading.build import build_model
from storm._loading.fetch import list_models
from storm._loading.head import ExpressionHead
from storm._loading.load import load_model
from storm._loading.model import StormModel
from storm._loading.parts import READOUTS

__all__ = ["READOUTS", "ExpressionHead", "StormModel", "build_model", "list_models", "load_model"]
