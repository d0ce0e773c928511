"""Expression encoders as plain facts, genes and tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeGuard

from torch import Tensor

from storm.data.genes import Vocabulary
from storm.expression.factor import FactorExpression
from storm.expression.interface import ExpressionEncoder
from storm.expression.linear import PCAEncoder, VariableGenes
from storm.expression.novae import NovaeEncoder

StoredEncoder: TypeAlias = FactorExpression | NovaeEncoder | PCAEncoder | VariableGenes

#: Encoders that can be stored, by the word in their facts.
KINDS: dict[str, type[StoredEncoder]] = {
    cls.kind: cls for cls in (FactorExpression, NovaeEncoder, PCAEncoder, VariableGenes)
}


def is_stored(encoder: ExpressionEncoder) -> TypeGuard[StoredEncoder]:
    """Whether an encoder can be stored; a subclass cannot, because it could not be built again."""
    return type(encoder) in KINDS.values()


def dump(encoder: ExpressionEncoder) -> tuple[dict[str, Any], Vocabulary, dict[str, Tensor]]:
    """Facts (for JSON), genes and tensors of an encoder.

    Raises
    ------
    TypeError
        If it is a class of the user's own, which storm could not build again.
    """
    if not is_stored(encoder):
        msg = (
            f"expression encoder {encoder.name!r} is a {type(encoder).__name__}, which cannot be stored; storm stores "
            f"{[cls.__name__ for cls in KINDS.values()]}"
        )
        raise TypeError(msg)
    return {"kind": encoder.kind, **encoder.facts()}, encoder.vocabulary, encoder.state()


def restore(facts: Mapping[str, Any], vocabulary: Vocabulary, state: dict[str, Tensor]) -> StoredEncoder:
    """Build the encoder from what :func:`dump` returned.

    Raises
    ------
    ValueError
        If this version of storm does not know its kind, a fact is missing or has an impossible value, or the tensors do
        not fit.
    """
    kind = facts.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        msg = f"expression encoder of kind {kind!r} is unknown, there are {sorted(KINDS)}; update storm"
        raise ValueError(msg)
    try:
        return KINDS[kind].restore({name: value for name, value in facts.items() if name != "kind"}, vocabulary, state)
    except KeyError as error:
        msg = f"the expression encoder of kind {kind!r} lacks {error.args[0]!r}; copy the model's folder again"
        raise ValueError(msg) from error
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        msg = f"the expression encoder cannot be built from its description and its tensors ({reason})"
        raise ValueError(msg) from error
