"""What expression encoders with a fixed set of genes have in common: how a table's genes match theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from storm._checks import check_whole
from storm.data.genes import GeneMatch, Vocabulary, match_genes, require_shared


class KnownGenes:
    """An expression encoder with a vocabulary.

    Parameters
    ----------
    vocabulary
        The encoder's genes.
    min_genes
        Smallest number of genes that a table has to share with the encoder.
    name
        Name of the encoder in the provenance.

    Raises
    ------
    TypeError
        If ``name`` is not text.
    ValueError
        If ``min_genes`` is not a whole number of at least 0.
    """

    def __init__(self, vocabulary: Vocabulary, *, min_genes: int, name: str) -> None:
        if not isinstance(name, str):
            msg = f"name={name!r} of an expression encoder must be text, not {type(name).__name__}"
            raise TypeError(msg)
        self.name = name
        self.vocabulary = vocabulary
        self.min_genes = check_whole(min_genes, name="min_genes", least=0)

    def match(self, genes: Sequence[str] | np.ndarray) -> GeneMatch:
        """Match the genes of a table, given by name, with those of the encoder."""
        return match_genes(genes, self.vocabulary)

    def shared(self, genes: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Genes that a table and the encoder have in common.

        Parameters
        ----------
        genes
            Name of each column of the table, shape (g,).

        Returns
        -------
        columns : ndarray
            Columns of the table, in order, int64, shape (m,).
        places : ndarray
            Position of each in the vocabulary, int64, shape (m,).

        Raises
        ------
        ValueError
            If there are fewer than ``min_genes``.
        """
        match = self.match(genes)
        require_shared(match, self.vocabulary, self.min_genes)
        columns = np.flatnonzero(match.index >= 0)
        return columns, match.index[columns]
