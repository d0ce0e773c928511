"""Gene names at the door: symbols, their case, Ensembl ids and former symbols, resolved once against a vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from storm.data._aliases import ALIASES

_ENSEMBL = re.compile(r"^(ENS[A-Z]*G\d{11})(\.\d+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Vocabulary:
    """The genes a model knows.

    Attributes
    ----------
    symbols
        Gene symbols, unique, in the order of the model's weights.
    ensembl
        Ensembl id of each symbol without version, ``""`` where unknown.
    """

    symbols: tuple[str, ...]
    ensembl: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.symbols)) != len(self.symbols):
            msg = "the vocabulary's symbols are not unique"
            raise ValueError(msg)
        if self.ensembl and len(self.ensembl) != len(self.symbols):
            msg = f"{len(self.ensembl)} Ensembl ids for {len(self.symbols)} symbols"
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.symbols)


@dataclass(frozen=True)
class GeneMatch:
    """How the columns of a table meet a vocabulary.

    Attributes
    ----------
    index
        Position in the vocabulary of each column, -1 where there is none, shape (g,), int64.
    matched
        Columns whose name is a symbol of the vocabulary, letter for letter.
    aliased
        Column name → symbol, where only letter case differs (a mouse symbol, say), an Ensembl id was resolved, or the
        gene was renamed.
    ambiguous
        Columns that meet a symbol which another column meets better; they are not used.
    missing
        Columns that the vocabulary does not have.
    """

    index: np.ndarray
    matched: tuple[str, ...]
    aliased: dict[str, str] = field(default_factory=dict)
    ambiguous: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def n_shared(self) -> int:
        """How many genes of the vocabulary the table measures."""
        return len(self.matched) + len(self.aliased)

    def summary(self) -> dict[str, int]:
        """Counts for the provenance."""
        return {
            "matched": len(self.matched),
            "aliased": len(self.aliased),
            "ambiguous": len(self.ambiguous),
            "missing": len(self.missing),
        }


def match_genes(names: Sequence[str], vocabulary: Vocabulary) -> GeneMatch:
    """Find each column in a vocabulary.

    A symbol that matches to the letter goes before one that differs in case, that before an Ensembl id, and that before
    another name of the gene (``CTGF`` and ``CCN2``, either way round; a short table of HGNC renamings, not all of
    them). Letter case is what tells most mouse symbols from their human orthologues. All but the first kind are
    reported as aliased.

    Parameters
    ----------
    names
        Column names: gene symbols or Ensembl gene ids, with or without version.
    vocabulary
        The model's genes.

    Returns
    -------
    GeneMatch
    """
    exact = {symbol: i for i, symbol in enumerate(vocabulary.symbols)}
    folded: dict[str, int] = {}
    for symbol, i in exact.items():
        folded.setdefault(symbol.upper(), i)
    by_id = {identifier.upper(): i for i, identifier in enumerate(vocabulary.ensembl) if identifier}

    def resolve(name: str) -> tuple[int, int]:
        if name in exact:
            return exact[name], 0
        if name.upper() in folded:
            return folded[name.upper()], 1
        ensembl = _ENSEMBL.match(name)
        if ensembl and ensembl.group(1).upper() in by_id:
            return by_id[ensembl.group(1).upper()], 2
        for other in ALIASES.get(name.upper(), ()):
            if other in folded:
                return folded[other], 3
        return -1, 4

    names = [str(name) for name in names]
    found = [resolve(name) for name in names]
    best: dict[int, int] = {}
    for column, (at, rank) in enumerate(found):
        if at >= 0 and (at not in best or rank < found[best[at]][1]):
            best[at] = column
    index = np.full(len(names), -1, dtype=np.int64)
    matched, aliased, ambiguous, missing = [], {}, [], []
    for column, (name, (at, rank)) in enumerate(zip(names, found, strict=True)):
        if at < 0:
            missing.append(name)
        elif best[at] != column:
            ambiguous.append(name)
        else:
            index[column] = at
            if rank == 0:
                matched.append(name)
            else:
                aliased[name] = vocabulary.symbols[at]
    return GeneMatch(index, tuple(matched), aliased, tuple(ambiguous), tuple(missing))


def require_shared(match: GeneMatch, vocabulary: Vocabulary, minimum: int) -> None:
    """Raise if a table shares fewer genes than ``minimum`` with the vocabulary.

    Raises
    ------
    ValueError
        Names the numbers and some of the unknown columns.
    """
    if match.n_shared >= minimum:
        return
    some = ", ".join(map(repr, match.missing[:5]))
    msg = (
        f"only {match.n_shared} of the table's {len(match.index)} genes are among the model's {len(vocabulary)} "
        f"(at least {minimum} are needed); unknown are {some}{', …' if len(match.missing) > 5 else ''}. Check that "
        "var_names are gene symbols or Ensembl ids; for another gene set, fit a model on your own sections, "
        "storm.tl.adapt(sdata, model=None), or leave expression out where there is H&E, modality='he'"
    )
    raise ValueError(msg)
