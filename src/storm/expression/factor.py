"""The packaged expression encoder behind the interface of all expression encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from storm._checks import check_whole
from storm.data.genes import Vocabulary
from storm.expression.interface import by_blocks
from storm.expression.known_genes import KnownGenes
from storm.model.expression import FactorEncoder
from storm.model.weights import check_sizes, fill


class FactorExpression(KnownGenes):
    """Posterior means of a :class:`storm.model.expression.FactorEncoder`, whatever genes a table has.

    Parameters
    ----------
    encoder
        The factors; a loaded model's ``expression``.
    vocabulary
        Its genes; a loaded model's ``vocabulary``.
    min_genes
        Smallest number of genes that a table has to share with the encoder.
    name
        Name of the encoder in the provenance.
    """

    needs_centres = False
    kind = "factors"

    def __init__(
        self, encoder: FactorEncoder, vocabulary: Vocabulary, *, min_genes: int = 20, name: str = "factors"
    ) -> None:
        super().__init__(vocabulary, min_genes=min_genes, name=name)
        self._encoder = encoder

    @classmethod
    def restore(cls, facts: dict[str, Any], vocabulary: Vocabulary, state: dict[str, Tensor]) -> FactorExpression:
        """Build the encoder from what :meth:`facts` and :meth:`state` returned."""
        dim = check_whole(facts["dim"], name="dim")
        largest = max((max(tensor.shape, default=1) for tensor in state.values()), default=0)
        check_sizes({"dim": dim, "number of genes": len(vocabulary)}, largest=largest, name="expression.safetensors")
        with torch.device("meta"):
            encoder = FactorEncoder(len(vocabulary), dim)
        fill(encoder, state, name="expression.safetensors")
        return cls(encoder, vocabulary, min_genes=facts["min_genes"], name=facts["name"])

    def facts(self) -> dict[str, Any]:
        """What :meth:`restore` needs besides the genes and :meth:`state`, for JSON."""
        return {"dim": self.dim, "min_genes": self.min_genes, "name": self.name}

    def state(self) -> dict[str, Tensor]:
        """Tensors by name."""
        return self._encoder.state_dict()

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self._encoder.dim

    def encode(self, counts: csr_matrix, genes: Sequence[str], *, centres: np.ndarray | None = None) -> np.ndarray:
        """Embed the spots of one section; see :class:`ExpressionEncoder`. Each spot depends on its own counts only."""
        columns, places = self.shared(genes)
        measured = torch.from_numpy(places)
        with torch.inference_mode():
            weights = self._encoder.weights(measured).numpy()
            centre = self._encoder.mean[measured].numpy() @ weights
        # A sparse product: the dense matrix of centred expression is never made.
        return by_blocks(counts, genes, lambda block: block[:, columns] @ weights - centre, dim=self.dim)
