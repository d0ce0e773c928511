"""The packaged expression encoder behind the interface of all expression encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from storm._checks import check_whole
from storm.data.genes import TooFewGenesError, Vocabulary, as_symbols
from storm.data.libraries import LEAST_COMMON, Library
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
    library
        Genes whose counts add up to the library size; by default all genes of each table. A table must have at least
        twenty of them.
    """

    needs_centres = False
    kind = "factors"

    def __init__(
        self,
        encoder: FactorEncoder,
        vocabulary: Vocabulary,
        *,
        min_genes: int = 20,
        name: str = "factors",
        library: Library | None = None,
    ) -> None:
        super().__init__(vocabulary, min_genes=min_genes, name=name)
        self.library = Library() if library is None else library
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
        # Version 0.1.0 had no choice of the library.
        genes = facts.get("library")
        if genes is not None and not (isinstance(genes, list) and genes and all(isinstance(g, str) for g in genes)):
            msg = f"the library of expression encoder {facts['name']!r} must be a list of genes, not {genes!r:.80}"
            raise ValueError(msg)
        library = Library(None if genes is None else tuple(genes))
        return cls(encoder, vocabulary, min_genes=facts["min_genes"], name=facts["name"], library=library)

    def facts(self) -> dict[str, Any]:
        """What :meth:`restore` needs besides the genes and :meth:`state`, for JSON."""
        facts: dict[str, Any] = {"dim": self.dim, "min_genes": self.min_genes, "name": self.name}
        return facts if self.library.genes is None else facts | {"library": list(self.library.genes)}

    def state(self) -> dict[str, Tensor]:
        """Tensors by name."""
        return self._encoder.state_dict()

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self._encoder.dim

    def encode(
        self, counts: csr_matrix, genes: Sequence[str] | np.ndarray, *, centres: np.ndarray | None = None
    ) -> np.ndarray:
        """Embed the spots of one section; see :class:`ExpressionEncoder`. Each spot depends on its own counts only."""
        columns, places = self.shared(genes)
        library = self.library.columns(as_symbols(genes, self.vocabulary))
        if library is not None and library.sum() < min(LEAST_COMMON, len(library)):
            msg = (
                f"the table has {library.sum()} of the {self.library} by which expression encoder {self.name!r} "
                f"normalises counts, and at least {LEAST_COMMON} are needed; fit a model on your own sections, "
                "storm.tl.adapt(sdata, model=None)"
            )
            raise TooFewGenesError(msg)
        measured = torch.from_numpy(places)
        with torch.inference_mode():
            weights = self._encoder.weights(measured).numpy()
            centre = self._encoder.mean[measured].numpy() @ weights
        # A sparse product: the dense matrix of centred expression is never made.
        return by_blocks(
            counts, genes, lambda block: block[:, columns] @ weights - centre, dim=self.dim, library=library
        )
