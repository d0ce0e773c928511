"""The packaged expression encoder behind the interface of all expression encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from storm.data.genes import GeneMatch, Vocabulary, match_genes, require_shared
from storm.expression.interface import by_blocks
from storm.model.expression import FactorEncoder


class FactorExpression:
    """Posterior means of a :class:`storm.model.expression.FactorEncoder`, whatever genes a table has.

    Parameters
    ----------
    encoder
        The factors; a loaded model's ``expression``.
    vocabulary
        Its genes; a loaded model's ``vocabulary``.
    min_genes
        Fewer shared genes than this are an error.
    name
        Name for the provenance.
    """

    needs_centres = False
    kind = "factors"

    def __init__(
        self, encoder: FactorEncoder, vocabulary: Vocabulary, *, min_genes: int = 20, name: str = "factors"
    ) -> None:
        self.name = name
        self.vocabulary = vocabulary
        self.min_genes = min_genes
        self._encoder = encoder

    @classmethod
    def restore(cls, facts: dict[str, Any], vocabulary: Vocabulary, state: dict[str, Tensor]) -> FactorExpression:
        """The encoder that :meth:`facts` and :meth:`state` describe."""
        encoder = FactorEncoder(len(vocabulary), facts["dim"])
        encoder.load_state_dict(state)
        return cls(encoder.eval(), vocabulary, min_genes=facts["min_genes"], name=facts["name"])

    def facts(self) -> dict[str, Any]:
        """What must be known to build it again, beside its genes and :meth:`state`."""
        return {"dim": self.dim, "min_genes": self.min_genes, "name": self.name}

    def state(self) -> dict[str, Tensor]:
        """Its tensors."""
        return self._encoder.state_dict()

    @property
    def dim(self) -> int:
        """Size of the embedding."""
        return self._encoder.dim

    def match(self, genes: Sequence[str]) -> GeneMatch:
        """How the table's genes meet the vocabulary."""
        return match_genes(genes, self.vocabulary)

    def encode(self, counts: csr_matrix, genes: Sequence[str], *, centres: np.ndarray | None = None) -> np.ndarray:
        """Embed the spots of one section; see :class:`ExpressionEncoder`. Each spot depends on its own counts only."""
        match = self.match(genes)
        require_shared(match, self.vocabulary, self.min_genes)
        columns = np.flatnonzero(match.index >= 0)
        measured = torch.from_numpy(match.index[columns])
        with torch.inference_mode():
            weights = self._encoder.weights(measured).numpy()
            centre = self._encoder.mean[measured].numpy() @ weights
        # A sparse product: the dense matrix of centred expression is never made.
        return by_blocks(counts, genes, lambda block: block[:, columns] @ weights - centre, dim=self.dim)
