"""Novae (Blampey et al. 2025) as the paper uses it: frozen, each spot by itself, at many times Novae's own speed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from storm._checks import check_choice, check_positive
from storm.data.genes import TooFewGenesError, Vocabulary
from storm.data.normalise import log_normalise
from storm.expression._gat import check_encoder, encode_graphs, encode_single
from storm.expression._graph import GraphKind, neighbourhoods, restrict, small_graphs, spatial_graph
from storm.expression.interface import blank_empty, check_counts
from storm.expression.known_genes import KnownGenes
from storm.expression.novae_models import SHAPE, check_shape, pretrained_novae, random_novae
from storm.expression.variable import novae_genes
from storm.model.weights import fill

#: Which neighbours a spot's embedding depends on; see :class:`NovaeEncoder`.
Context = Literal["spot", "visible", "full"]
CONTEXTS: tuple[Context, ...] = get_args(Context)
#: Number of genes below which Novae refuses a table.
_MIN_GENES = 20
#: What Novae adds to a standard deviation before it divides.
_EPS = 1e-8
#: Values of one dense block of expression.
_BLOCK = 2**22


@dataclass(frozen=True, kw_only=True)
class SlideStatistics:
    """Statistics with which a section's expression is standardised before Novae reads it.

    Attributes
    ----------
    genes
        Genes that Novae reads, as named in its vocabulary, length m.
    target_sum
        Counts per spot after normalisation.
    mean, std
        Mean and standard deviation of log1p-normalised expression over the section's spots, float32, shape (m,).
    """

    genes: tuple[str, ...]
    target_sum: float
    mean: np.ndarray
    std: np.ndarray


class NovaeEncoder(KnownGenes):
    """A frozen Novae behind the interface of all expression encoders.

    Expression is normalised to the section's median count (Novae's own choice), log1p-transformed and standardised per
    gene over the section, on the genes that are both highly variable in the section and in Novae's vocabulary. The only
    thing that other spots can change in an embedding with ``context="spot"`` is this standardisation; with fixed
    ``statistics`` they change nothing.

    Parameters
    ----------
    model
        A trained ``novae.Novae``. Its layers are copied; the object is left as it was.
    name
        Name of the encoder in the provenance.
    context
        ``"spot"``: each spot is a graph of its own, so that nothing of its neighbours leaks in (the paper's way, and
        the one for masked pretraining). ``"visible"``: edges among visible spots only. ``"full"``: Novae's own way,
        with neighbours and their neighbours; for inference only.
    graph
        How neighbours are found where the context needs them: ``"lattice"``, ``"delaunay"``, or ``"auto"``, which uses
        a lattice where the centres lie on one.
    radius_um
        Longest edge of a Delaunay graph in µm.
    variable
        Keep highly variable genes only, as Novae does in panels of more than a hundred genes.
    device
        Device on which the layers run.

    Raises
    ------
    ValueError
        If Novae was trained in a way that cannot be run here, or an option has an impossible value.
    """

    kind = "novae"

    def __init__(
        self,
        model: Any,
        *,
        name: str = "novae",
        context: Context = "spot",
        graph: GraphKind = "auto",
        radius_um: float | None = None,
        variable: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        check_choice(context, CONTEXTS, name="context")
        check_choice(graph, get_args(GraphKind), name="graph")
        if radius_um is not None:
            check_positive(radius_um, name="radius_um", unit="µm")
        if not isinstance(variable, bool):
            msg = f"variable={variable!r} must be True or False"
            raise TypeError(msg)
        if model.cell_embedder is None or model.mode.multimodal:
            other = "H&E embeddings" if model.mode.multimodal else "another embedding of cells"
            msg = f"{name!r} was trained on {other} beside or instead of genes; give a Novae that reads genes alone"
            raise ValueError(msg)
        check_encoder(model.encoder)
        # Novae folds its names to lower case; most human symbols are upper case.
        symbols = tuple(str(gene).upper() for gene in model.cell_embedder.gene_names)
        super().__init__(Vocabulary(symbols), min_genes=_MIN_GENES, name=name)
        self.context = context
        self.graph = graph
        self.radius_um = radius_um
        self.variable = variable
        self.device = torch.device(device)
        self.hops = int(model.hparams["n_hops_local"])
        self._cells = copy.deepcopy(model.cell_embedder).requires_grad_(False).eval().to(self.device)
        self._encoder = copy.deepcopy(model.encoder).requires_grad_(False).eval().to(self.device)
        self._shape = {key: model.hparams[key] for key in SHAPE}

    @classmethod
    def restore(cls, facts: dict[str, Any], vocabulary: Vocabulary, state: dict[str, Tensor]) -> NovaeEncoder:
        """Build the encoder from what :meth:`facts` and :meth:`state` returned."""
        shape = facts["shape"]
        check_shape(shape, vocabulary, state)
        model = random_novae(vocabulary.symbols, **shape)
        for part, module in (("cells", model.cell_embedder), ("encoder", model.encoder)):
            prefix = f"{part}."
            own = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
            fill(module, own, name="expression.safetensors")
        return cls(
            model,
            name=facts["name"],
            context=facts["context"],
            graph=facts["graph"],
            radius_um=facts["radius_um"],
            variable=facts["variable"],
        )

    def facts(self) -> dict[str, Any]:
        """What :meth:`restore` needs besides the genes and :meth:`state`, for JSON."""
        options = {key: getattr(self, key) for key in ("name", "context", "graph", "radius_um", "variable")}
        return options | {"shape": self._shape}

    def state(self) -> dict[str, Tensor]:
        """Tensors by name: those of Novae that an embedding needs."""
        parts = {"cells": self._cells, "encoder": self._encoder}
        return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}

    @cached_property
    def dim(self) -> int:
        """Length of the embedding."""
        return cast("int", self._encoder.node_aggregation.attention_aggregation.nn.out_features)

    @property
    def needs_centres(self) -> bool:
        """Whether a spot's embedding depends on where its neighbours are."""
        return self.context != "spot"

    def statistics(self, counts: csr_matrix, genes: Sequence[str] | np.ndarray) -> SlideStatistics:
        """Statistics of a section; with :meth:`encode`, they standardise other spots in the same way.

        Parameters
        ----------
        counts
            Raw counts, shape (n, g).
        genes
            Name of each column, shape (g,).

        Returns
        -------
        SlideStatistics

        Raises
        ------
        TooFewGenesError
            If fewer than 20 genes are both variable and known to Novae.
        """
        counts = check_counts(counts, genes)
        columns, places = self.shared(genes)
        total = np.asarray(counts.sum(axis=1)).ravel()
        if not (total > 0).any():
            msg = "no spot has counts; there is nothing to standardise with"
            raise ValueError(msg)
        target = float(np.median(total[total > 0]))
        expression = log_normalise(counts, target_sum=target)
        if self.variable:
            used = novae_genes(expression)[columns]
            columns, places = columns[used], places[used]
        if len(columns) < _MIN_GENES:
            msg = (
                f"only {len(columns)} genes are both highly variable and known to {self.name!r} (at least {_MIN_GENES} "
                "are needed); use variable=False to read all known genes"
            )
            raise TooFewGenesError(msg)
        x = expression[:, columns].astype(np.float64)
        mean = np.asarray(x.mean(axis=0)).ravel()
        variance = np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
        # Rounding leaves about 1e-16 of a gene's square where it does not vary at all.
        std = np.sqrt(np.where(variance > 1e-12 * np.square(mean), variance, 0))
        names = tuple(self.vocabulary.symbols[i] for i in places)
        return SlideStatistics(genes=names, target_sum=target, mean=mean.astype(np.float32), std=std.astype(np.float32))

    def encode(
        self,
        counts: csr_matrix,
        genes: Sequence[str] | np.ndarray,
        *,
        centres: np.ndarray | None = None,
        visible: np.ndarray | None = None,
        statistics: SlideStatistics | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Embed the spots of one section.

        Parameters
        ----------
        counts
            Raw counts, shape (n, g); not changed.
        genes
            Name of each column, shape (g,).
        centres
            x and y in µm, shape (n, 2); needed unless ``context="spot"``.
        visible
            With ``context="visible"``: spots that may be used, bool, shape (n,). The embedding of the others is NaN.
        statistics
            Fixed statistics instead of the section's own.
        batch_size
            Number of graphs per batch. Small batches, whose edges stay in the processor's cache, are faster on a CPU.

        Returns
        -------
        ndarray
            float32, shape (n, dim); NaN for a spot without counts. A spot without neighbours is encoded by itself,
            where Novae would give it zeros.

        Raises
        ------
        ValueError
            If shapes disagree, too few genes are known, or the context lacks centres or visible spots.
        """
        counts = check_counts(counts, genes)
        n = counts.shape[0]
        if self.needs_centres and (centres is None or np.shape(centres) != (n, 2)):
            given = None if centres is None else np.shape(centres)
            msg = f"context={self.context!r} needs centres of shape ({n}, 2), not {given}; or use 'spot'"
            raise ValueError(msg)
        if (self.context == "visible") != (visible is not None):
            msg = f"context={self.context!r} {'needs' if visible is None else 'does not take'} visible="
            raise ValueError(msg)
        if visible is not None and (np.shape(visible) != (n,) or np.asarray(visible).dtype != bool):
            msg = f"visible must be a bool array of shape ({n},)"
            raise ValueError(msg)
        if statistics is None:
            statistics = self.statistics(counts, genes)
        with torch.inference_mode():
            cells = self._embed_cells(counts, genes, statistics)
            if self.context == "spot":
                out = [encode_single(self._encoder, block) for block in cells.split(4096)]
                embedding = torch.cat(out).float().cpu().numpy() if out else np.empty((0, self.dim), np.float32)
            else:
                embedding = self._encode_full(cells, np.asarray(centres), visible, batch_size)
        return blank_empty(embedding, counts)

    def _embed_cells(
        self, counts: csr_matrix, genes: Sequence[str] | np.ndarray, statistics: SlideStatistics
    ) -> Tensor:
        """Novae's cell embeddings: standardised expression times normalised gene embeddings, shape (n, e)."""
        match = self.match(genes)
        column = np.full(len(self.vocabulary), -1, dtype=np.int64)
        shared = np.flatnonzero(match.index >= 0)
        column[match.index[shared]] = shared
        place = {symbol: i for i, symbol in enumerate(self.vocabulary.symbols)}
        known = np.array([place[symbol] for symbol in statistics.genes], dtype=np.int64)
        available = column[known] >= 0
        if available.sum() < _MIN_GENES:
            msg = f"only {available.sum()} of the statistics' {len(known)} genes are in this table; compute its own"
            raise ValueError(msg)
        # Gene embeddings are normalised over the genes that are read, so a gene that the table lacks must not count.
        known, mean, std = known[available], statistics.mean[available], statistics.std[available]
        weights = self._cells.linear(self._cells.embedding(torch.from_numpy(known).to(self.device)))
        weights = F.normalize(weights, dim=0)
        # A gene that does not vary is left out; Novae's (x - mean) / 1e-8 is 0 for it but for rounding.
        scale = np.divide(1, std + np.float32(_EPS), out=np.zeros_like(std), where=std > 0)
        expression = log_normalise(counts, target_sum=statistics.target_sum)[:, column[known]]
        step = max(1, _BLOCK // len(known))
        blocks = []
        for start in range(0, expression.shape[0], step):
            x = expression[start : start + step].toarray()
            x -= mean
            x *= scale
            blocks.append(torch.from_numpy(x).to(self.device) @ weights)
        return torch.cat(blocks) if blocks else weights.new_empty((0, weights.shape[1]))

    def _encode_full(
        self, cells: Tensor, centres: np.ndarray, visible: np.ndarray | None, batch_size: int
    ) -> np.ndarray:
        graph = spatial_graph(centres, kind=self.graph, radius=self.radius_um)
        rows = np.arange(len(centres))
        if visible is not None:
            graph, rows = restrict(graph, visible), np.flatnonzero(visible)
        out = np.full((len(centres), self.dim), np.nan, dtype=np.float32)
        alone = np.diff(graph.indptr)[rows] == 0
        out[rows[alone]] = encode_single(self._encoder, cells[torch.from_numpy(rows[alone])]).cpu().numpy()
        rows = rows[~alone]
        incoming, reach = graph.T.tocsr(), neighbourhoods(graph, self.hops)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            out[batch] = encode_graphs(self._encoder, cells, small_graphs(incoming, reach, batch)).cpu().numpy()
        return out


def load_novae(source: str | Path, *, download: bool = False, **options: Any) -> NovaeEncoder:
    """Load a Novae from a folder, or by its name on the Hugging Face hub. Nothing is downloaded by default.

    Parameters
    ----------
    source
        A folder that ``novae.Novae.save_pretrained`` wrote, or a name such as ``"prism-oncology/novae-human-0"``, which
        is looked up in the hub's cache on this machine.
    download
        Fetch it from the hub if it is not on this machine.
    **options
        Options of :class:`NovaeEncoder`, such as ``context``.

    Returns
    -------
    NovaeEncoder

    Raises
    ------
    FileNotFoundError
        If it is not on this machine; the text tells how to get it.
    ConnectionError
        If the hub cannot be reached.
    ValueError
        If ``source`` is neither a folder nor the name of a Novae on the hub.

    Examples
    --------
    Weights of Novae are downloaded only if you say so; a folder that you have needs no internet:

    >>> import storm
    >>> storm.expression.load_novae("MICS-Lab/novae-human-0", download=True)  # doctest: +SKIP
    """
    return NovaeEncoder(pretrained_novae(source, download=download), name=str(source), **options)
