"""Expression encoders as plain facts, genes and tensors, and back."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from storm.data.genes import Vocabulary
from storm.expression.factor import FactorExpression
from storm.expression.interface import ExpressionEncoder
from storm.expression.linear import PCAEncoder, VariableGenes
from storm.expression.novae import NovaeEncoder

#: Encoders that can be stored, by the word in their facts.
KINDS = {cls.kind: cls for cls in (FactorExpression, NovaeEncoder, PCAEncoder, VariableGenes)}


def dump(encoder: ExpressionEncoder) -> tuple[dict[str, Any], Vocabulary, dict[str, Tensor]]:
    """Facts (for json), genes and tensors of an encoder.

    Raises
    ------
    TypeError
        If it is a class of the user's own, of which nobody knows how to build it again.
    """
    if type(encoder) not in KINDS.values():
        msg = (
            f"expression encoder {encoder.name!r} is a {type(encoder).__name__}, which cannot be stored; storm stores "
            f"{[cls.__name__ for cls in KINDS.values()]}"
        )
        raise TypeError(msg)
    return {"kind": encoder.kind, **encoder.facts()}, encoder.vocabulary, encoder.state()


def restore(facts: dict[str, Any], vocabulary: Vocabulary, state: dict[str, Tensor]) -> ExpressionEncoder:
    """The encoder that :func:`dump` described.

    Raises
    ------
    ValueError
        If this version knows no such kind, or the tensors do not fit.
    """
    facts = dict(facts)
    kind = facts.pop("kind")
    if kind not in KINDS:
        msg = f"expression encoder of kind {kind!r} is unknown, there are {sorted(KINDS)}; update storm"
        raise ValueError(msg)
    try:
        return KINDS[kind].restore(facts, vocabulary, state)
    except (RuntimeError, KeyError, TypeError) as error:
        msg = f"the tensors of the expression encoder do not fit its description ({str(error).splitlines()[0][:200]})"
        raise ValueError(msg) from error
