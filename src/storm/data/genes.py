"""Gene names: symbols, their letter case, Ensembl ids and former symbols, matched with a vocabulary in one place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storm.data._aliases import ALIASES

#: An Ensembl gene id of any species, its version, and GENCODE's mark of the copy on the Y chromosome.
_ENSEMBL = re.compile(r"^(ENS[A-Z]*G\d{11})(\.\d+)?(_PAR_Y)?$", re.IGNORECASE)
#: Prefixes of Ensembl gene ids and the species they stand for.
_SPECIES = {"ENSG": "human", "ENSMUSG": "mouse"}
#: Names of controls on Xenium ("NegControlProbe_00042"), MERSCOPE ("Blank-3") and CosMx ("Negative12", "NegPrb3"), of
#: spike-ins ("ERCC-00002") and of what counting tools could not assign ("__ambiguous").
_CONTROL = re.compile(
    r"^(NegControl(Probe|Codeword)_|(Unassigned|Deprecated)Codeword_|antisense_|Intergenic_Region_"
    r"|Blank[-_]?\d+$|NegPrb[-_]?\d+$|Negative[-_]?\d+$|SystemControl[-_]?\d+$|FalseCode[-_]?\d+$"
    r"|ERCC-\d{5}$|__)",
    re.IGNORECASE,
)
#: Kinds of features that are genes, as 10x and others write them, without case.
_GENE_KINDS = ("gene expression", "gene", "genes", "rna", "mrna")
#: Kinds that are not genes even if no other feature of the table has one of the kinds above.
_OTHER_KINDS = (
    "antibody capture",
    "antigen capture",
    "crispr guide capture",
    "multiplexing capture",
    "custom",
    "peaks",
    "protein",
    "negative control probe",
    "negative control codeword",
    "unassigned codeword",
    "deprecated codeword",
    "blank codeword",
    "genomic control",
)


@dataclass(frozen=True)
class Vocabulary:
    """The genes of a model.

    Attributes
    ----------
    symbols
        Gene symbols, unique, in the order of the model's weights. A head that was trained on a table of Ensembl ids
        has these in their place.
    ensembl
        Ensembl id of each symbol without version, ``""`` where unknown; empty if all are unknown.
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
    """How the columns of a table match a vocabulary.

    Attributes
    ----------
    index
        Position in the vocabulary of each column, -1 where there is none, shape (g,), int64.
    matched
        Columns whose name is a symbol of the vocabulary, letter for letter.
    aliased
        Column name → symbol, where only letter case differs (as in a mouse symbol), an Ensembl id was resolved, or the
        gene was renamed.
    ambiguous
        Columns of a gene that another column, under another name, matches better or as well and before them; they are
        not used.
    missing
        Columns whose gene is not in the vocabulary.
    repeated
        Columns of a known gene that have the very name of a column before them; they are not used.
    """

    index: np.ndarray
    matched: tuple[str, ...]
    aliased: dict[str, str] = field(default_factory=dict)
    ambiguous: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

    @property
    def n_shared(self) -> int:
        """Number of genes of the vocabulary that the table measures."""
        return len(self.matched) + len(self.aliased)

    def summary(self) -> dict[str, int]:
        """Counts for the provenance; repeated columns count as ambiguous."""
        return {
            "matched": len(self.matched),
            "aliased": len(self.aliased),
            "ambiguous": len(self.ambiguous) + len(self.repeated),
            "missing": len(self.missing),
        }


def match_genes(names: Sequence[str] | np.ndarray, vocabulary: Vocabulary) -> GeneMatch:
    """Find each column of a table in a vocabulary.

    A symbol that matches to the letter goes before one that differs in case, that before an Ensembl id, and that before
    another name of the gene (``CTGF`` and ``CCN2``, either way round; a short table of HGNC renamings, not all of
    them). Of two columns that match equally well the first is used. Most mouse symbols differ from those of their human
    orthologues in letter case alone. Ensembl ids match with and without version, whether the vocabulary lists them
    beside its symbols or in their place. All but the first kind are reported as aliased.

    Parameters
    ----------
    names
        Column names: gene symbols or Ensembl gene ids, with or without version.
    vocabulary
        The model's genes.

    Returns
    -------
    GeneMatch
        Position in the vocabulary of each column, and how it was found.
    """
    exact = {symbol: i for i, symbol in enumerate(vocabulary.symbols)}
    folded: dict[str, int] = {}
    for symbol, i in exact.items():
        folded.setdefault(symbol.upper(), i)
    by_id: dict[str, int] = {}
    # Ids that stand beside the symbols, and symbols that are ids themselves.
    for i, identifier in (*enumerate(vocabulary.ensembl), *enumerate(vocabulary.symbols)):
        bare = ensembl_id(identifier)
        if bare:
            by_id.setdefault(bare, i)

    def resolve(name: str) -> tuple[int, int]:
        if name in exact:
            return exact[name], 0
        if name.upper() in folded:
            return folded[name.upper()], 1
        bare = ensembl_id(name)
        if bare in by_id:
            return by_id[bare], 2
        for other in ALIASES.get(name.upper(), ()):
            if other in folded:
                return folded[other], 3
        return -1, 4

    names = [str(name) for name in names]
    places = [resolve(name) for name in names]
    best: dict[int, int] = {}
    for column, (at, rank) in enumerate(places):
        if at >= 0 and (at not in best or rank < places[best[at]][1]):
            best[at] = column
    index = np.full(len(names), -1, dtype=np.int64)
    matched: list[str] = []
    aliased: dict[str, str] = {}
    ambiguous, missing, repeated = [], [], []
    seen: set[str] = set()
    for column, (name, (at, rank)) in enumerate(zip(names, places, strict=True)):
        if at < 0:
            missing.append(name)
        elif name in seen:
            repeated.append(name)
        elif best[at] != column:
            ambiguous.append(name)
        else:
            index[column] = at
            if rank == 0:
                matched.append(name)
            else:
                aliased[name] = vocabulary.symbols[at]
        seen.add(name)
    return GeneMatch(index, tuple(matched), aliased, tuple(ambiguous), tuple(missing), tuple(repeated))


def best_names(candidates: Mapping[str, Sequence[Any] | np.ndarray], vocabulary: Vocabulary) -> tuple[str, np.ndarray]:
    """Choose, among several columns of names for the same genes, the one that matches a vocabulary.

    Parameters
    ----------
    candidates
        Column → names of the genes, each of length g, in the order of preference; missing names may be ``None`` or NaN.
    vocabulary
        The model's genes.

    Returns
    -------
    column : str
        The first column with at least half as many matches as the best one, so that a later column is used only if
        the earlier ones hardly match.
    names : ndarray
        Its names, shape (g,), str; where one is missing or repeats another, the first column's name.
    """
    columns = {column: _as_text(names) for column, names in candidates.items()}
    first = next(iter(columns))
    shared = {first: match_genes(columns[first], vocabulary).n_shared}
    if 2 * shared[first] < min(len(columns[first]), len(vocabulary)):
        shared |= {column: match_genes(names, vocabulary).n_shared for column, names in columns.items()}
    column = next(column for column, n in shared.items() if 2 * n >= max(shared.values()))
    names = columns[column]
    _, once = np.unique(names, return_index=True)
    usable = np.zeros(len(names), dtype=bool)
    usable[once] = names[once] != ""
    return column, np.where(usable, names, columns[first])


def as_symbols(names: Sequence[str] | np.ndarray, vocabulary: Vocabulary) -> list[str]:
    """Translate Ensembl ids into symbols, so that tables by either name can be compared.

    Parameters
    ----------
    names
        Gene symbols or Ensembl ids with or without version, shape (g,), each once.
    vocabulary
        Genes with their Ensembl ids.

    Returns
    -------
    list of str
        The vocabulary's symbol for each Ensembl id that it lists, the id without version for any other, and every other
        name as it is. A name stays as it is where its translation is the name of another column, or was given before.
    """
    # A vocabulary may list no ids at all.
    listed = zip(vocabulary.symbols, vocabulary.ensembl, strict=False)
    by_id = {ensembl_id(identifier): symbol for symbol, identifier in listed}
    names = [str(name) for name in names]
    taken = set(names)
    symbols = []
    for name in names:
        bare = ensembl_id(name)
        symbol = by_id.get(bare, bare) if bare else name
        if symbol != name and symbol in taken:
            symbol = name
        taken.add(symbol)
        symbols.append(symbol)
    return symbols


def is_gene(names: Sequence[str] | np.ndarray, kinds: Sequence[Any] | np.ndarray | None = None) -> np.ndarray:
    """Tell genes from the other features of a table: antibodies, guides, control probes.

    Parameters
    ----------
    names
        Names of the features, shape (g,).
    kinds
        Kind of each feature, shape (g,), as in 10x's ``var["feature_types"]``; ``None`` if it is not known, and missing
        entries where it is not. If one of them is ``"Gene Expression"``, features of every other kind are not genes;
        else only those of kinds that are known not to be genes.

    Returns
    -------
    ndarray
        bool, shape (g,). Controls are also told by the names that Xenium, MERSCOPE and CosMx give them.
    """
    gene = np.array([_CONTROL.match(str(name)) is None for name in names], dtype=bool)
    if kinds is None:
        return gene
    words = [text.strip().casefold() for text in _as_text(kinds)]
    if any(word in _GENE_KINDS for word in words):
        return gene & np.array([not word or word in _GENE_KINDS for word in words], dtype=bool)
    return gene & np.array([word not in _OTHER_KINDS for word in words], dtype=bool)


def ensembl_id(name: str) -> str:
    """Return an Ensembl gene id in upper case and without its version; ``""`` for any other name."""
    match = _ENSEMBL.match(name)
    return match.group(1).upper() if match else ""


def species_of(names: Sequence[str] | np.ndarray) -> str | None:
    """Tell the species of a table from its gene names.

    Parameters
    ----------
    names
        Gene symbols or Ensembl ids, shape (g,).

    Returns
    -------
    str or None
        ``"human"`` or ``"mouse"``, if nine in ten of the names that can be told are of this species: Ensembl ids by
        their prefix, symbols by their letter case (``ERBB2``, ``Erbb2``). ``None`` if there are fewer than ten such
        names, or a mixture.
    """
    votes = {"human": 0, "mouse": 0}
    for name in map(str, names):
        bare = ensembl_id(name)
        if bare:
            species = _SPECIES.get(bare[:-11])
        elif len(name) < 3 or not name[:3].isalpha():
            species = None
        else:
            species = "human" if name[:3].isupper() else "mouse" if name[0].isupper() and name[1:3].islower() else None
        if species is not None:
            votes[species] += 1
    total = sum(votes.values())
    return next((species for species, n in votes.items() if total >= 10 and n >= 0.9 * total), None)


class TooFewGenesError(ValueError):
    """A table shares too few genes with an expression encoder."""


def require_shared(match: GeneMatch, vocabulary: Vocabulary, minimum: int) -> None:
    """Raise if a table shares fewer genes than ``minimum`` with the vocabulary.

    Raises
    ------
    TooFewGenesError
        If too few genes are shared; the text gives the numbers and some of the unknown columns.
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
    raise TooFewGenesError(msg)


def _as_text(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Names as str, ``""`` where one is missing."""
    import pandas as pd

    column = pd.Series(list(values), dtype=object)
    return column.where(column.notna(), "").astype(str).to_numpy(dtype=str)
