"""Expression encoders: raw counts and gene names to one vector per spot, all behind one interface."""

from storm.expression.factor import FactorExpression
from storm.expression.interface import ExpressionEncoder
from storm.expression.linear import PCAEncoder, VariableGenes
from storm.expression.novae import NovaeEncoder, SlideStatistics, load_novae

__all__ = [
    "ExpressionEncoder",
    "FactorExpression",
    "NovaeEncoder",
    "PCAEncoder",
    "SlideStatistics",
    "VariableGenes",
    "load_novae",
]
