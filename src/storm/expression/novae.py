"""Novae (Blampey et al. 2025) as the paper uses it: frozen, each spot by itself, at many times Novae's own speed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from storm._checks import check_choice
from storm.data.genes import GeneMatch, Vocabulary, match_genes, require_shared
from storm.data.normalise import log_normalise
from storm.encoders.hub import UNREACHABLE, cache_dir, hub_answers
from storm.expression._gat import check_encoder, encode_graphs, encode_single
from storm.expression._graph import neighbourhoods, restrict, small_graphs, spatial_graph
from storm.expression.interface import blank_empty, check_counts
from storm.expression.variable import novae_genes

CONTEXTS = ("spot", "visible", "full")
#: Genes below which Novae refuses a table.
_MIN_GENES = 20
#: What Novae adds to a standard deviation before it divides.
_EPS = 1e-8
#: Values of one dense block of expression.
_BLOCK = 2**22
#: Novae's hyper-parameters that give its tensors their shape, or decide which cells a graph holds.
_SHAPE = (
    "embedding_size", "hidden_size", "num_layers", "output_size", "heads", "histo_embedding_size", "n_hops_local",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SlideStatistics:
    """How a section's expression is standardised before Novae reads it.

    Attributes
    ----------
    genes
        Novae's genes that are read, as named in its vocabulary, shape (m,).
    target_sum
        Counts per spot after normalisation.
    mean, std
        Of log1p-normalised expression over the section's spots, shape (m,).
    """

    genes: tuple[str, ...]
    target_sum: float
    mean: np.ndarray
    std: np.ndarray


class NovaeEncoder:
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
        Name for the provenance.
    context
        ``"spot"``: each spot is a graph of its own, so that nothing of its neighbours leaks in (the paper's way, and
        the one for masked pretraining). ``"visible"``: edges among visible spots only. ``"full"``: Novae's own way,
        with neighbours and their neighbours; for inference only.
    graph
        ``"auto"``, ``"lattice"`` or ``"delaunay"``: who is a neighbour, where the context needs it.
    radius_um
        Longest edge of a Delaunay graph in µm.
    variable
        Keep highly variable genes only, as Novae does in panels of more than a hundred genes.
    device
        Where the layers run.

    Raises
    ------
    ValueError
        If Novae was trained in a way that cannot be run here, or an option does not exist.
    """

    kind = "novae"

    def __init__(
        self,
        model: Any,
        *,
        name: str = "novae",
        context: str = "spot",
        graph: str = "auto",
        radius_um: float | None = None,
        variable: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        check_choice(context, CONTEXTS, name="context")
        check_choice(graph, ("auto", "lattice", "delaunay"), name="graph")
        if model.cell_embedder is None or model.mode.multimodal:
            how = "H&E embeddings" if model.mode.multimodal else "another embedding of cells"
            msg = f"{name!r} was trained on {how} beside or instead of genes; give a Novae that reads genes alone"
            raise ValueError(msg)
        check_encoder(model.encoder)
        self.name = name
        self.context = context
        self.graph = graph
        self.radius_um = radius_um
        self.variable = variable
        self.device = torch.device(device)
        self.hops = int(model.hparams["n_hops_local"])
        self._cells = copy.deepcopy(model.cell_embedder).requires_grad_(False).eval().to(self.device)
        self._encoder = copy.deepcopy(model.encoder).requires_grad_(False).eval().to(self.device)
        self._shape = {key: model.hparams[key] for key in _SHAPE}
        # Novae folds its names to lower case; most human symbols are upper case.
        self.vocabulary = Vocabulary(tuple(str(gene).upper() for gene in self._cells.gene_names))

    @classmethod
    def restore(cls, facts: dict[str, Any], vocabulary: Vocabulary, state: dict[str, Tensor]) -> NovaeEncoder:
        """The encoder that :meth:`facts` and :meth:`state` describe."""
        options = dict(facts)
        model = random_novae(vocabulary.symbols, **options.pop("shape"))
        for part, module in (("cells", model.cell_embedder), ("encoder", model.encoder)):
            prefix = f"{part}."
            own = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
            module.load_state_dict(own)
        return cls(model, **options)

    def facts(self) -> dict[str, Any]:
        """What must be known to build it again, beside its genes and :meth:`state`."""
        options = {key: getattr(self, key) for key in ("name", "context", "graph", "radius_um", "variable")}
        return options | {"shape": self._shape}

    def state(self) -> dict[str, Tensor]:
        """Its tensors: those of Novae that an embedding needs."""
        parts = {"cells": self._cells, "encoder": self._encoder}
        return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}

    @cached_property
    def dim(self) -> int:
        """Size of the embedding."""
        return self._encoder.node_aggregation.attention_aggregation.nn.out_features

    @property
    def needs_centres(self) -> bool:
        """Whether a spot's embedding depends on where its neighbours are."""
        return self.context != "spot"

    def match(self, genes: Sequence[str]) -> GeneMatch:
        """How the table's genes meet Novae's vocabulary."""
        return match_genes(genes, self.vocabulary)

    def statistics(self, counts: csr_matrix, genes: Sequence[str]) -> SlideStatistics:
        """What a section is standardised with; give it to :meth:`encode` to standardise other spots in the same way.

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
        ValueError
            If fewer than 20 genes are both variable and known to Novae.
        """
        counts = check_counts(counts, genes)
        match = self.match(genes)
        require_shared(match, self.vocabulary, _MIN_GENES)
        total = np.asarray(counts.sum(axis=1)).ravel()
        if not (total > 0).any():
            msg = "no spot has counts; there is nothing to standardise with"
            raise ValueError(msg)
        target = float(np.median(total[total > 0]))
        expression = log_normalise(counts, target_sum=target)
        used = match.index >= 0
        if self.variable:
            used &= novae_genes(expression)
        if used.sum() < _MIN_GENES:
            msg = (
                f"only {used.sum()} genes are both highly variable and known to {self.name!r} (at least {_MIN_GENES} "
                "are needed); use variable=False to read all known genes"
            )
            raise ValueError(msg)
        columns = np.flatnonzero(used)
        x = expression[:, columns].astype(np.float64)
        mean = np.asarray(x.mean(axis=0)).ravel()
        variance = np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
        # Rounding leaves about 1e-16 of a gene's square where it does not vary at all.
        std = np.sqrt(np.where(variance > 1e-12 * np.square(mean), variance, 0))
        names = tuple(self.vocabulary.symbols[i] for i in match.index[columns])
        return SlideStatistics(genes=names, target_sum=target, mean=mean.astype(np.float32), std=std.astype(np.float32))

    def encode(
        self,
        counts: csr_matrix,
        genes: Sequence[str],
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
            With ``context="visible"``: which spots may be seen, bool, shape (n,). The others are NaN.
        statistics
            Fixed statistics instead of the section's own.
        batch_size
            Graphs at once. Small batches, whose edges stay in the processor's cache, are faster on a CPU.

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
            msg = f"context={self.context!r} needs centres of shape ({n}, 2), not {np.shape(centres)}; or use 'spot'"
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

    def _embed_cells(self, counts: csr_matrix, genes: Sequence[str], statistics: SlideStatistics) -> Tensor:
        """Novae's cell embeddings: standardised expression times normalised gene embeddings, shape (n, e)."""
        match = self.match(genes)
        column = np.full(len(self.vocabulary), -1, dtype=np.int64)
        column[match.index[match.index >= 0]] = np.flatnonzero(match.index >= 0)
        place = {symbol: i for i, symbol in enumerate(self.vocabulary.symbols)}
        known = np.array([place[symbol] for symbol in statistics.genes], dtype=np.int64)
        there = column[known] >= 0
        if there.sum() < _MIN_GENES:
            msg = f"only {there.sum()} of the statistics' {len(known)} genes are in this table; compute its own"
            raise ValueError(msg)
        # Gene embeddings are normalised over the genes that are read, so a gene that is not there must not count.
        known, mean, std = known[there], statistics.mean[there], statistics.std[there]
        weights = self._cells.linear(self._cells.embedding(torch.from_numpy(known).to(self.device)))
        weights = F.normalize(weights, dim=0)
        # A gene that does not vary says nothing; Novae's (x - mean) / 1e-8 is 0 there but for rounding.
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


def random_novae(genes: Sequence[str], **shape: Any) -> Any:
    """An untrained ``novae.Novae`` over some genes; torch's random numbers stay where they are.

    Parameters
    ----------
    genes
        Its vocabulary, in any case of letters.
    **shape
        Its hyper-parameters.

    Returns
    -------
    novae.Novae
        :class:`NovaeEncoder` takes it.
    """
    from novae import Novae

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # torch and lightning warn of themselves while Novae is built
        return Novae(var_names=list(dict.fromkeys(gene.lower() for gene in genes)), **shape)


def load_novae(source: str | Path, *, download: bool = False, **options: Any) -> NovaeEncoder:
    """Load a Novae from a folder, or by its name on the Hugging Face hub. Nothing is downloaded unasked.

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
        If it is not on this machine; the text says how to get it.
    ConnectionError
        If the hub cannot be reached.
    ValueError
        If it is neither a folder nor a name of a Novae on the hub.
    """
    from novae import Novae

    text = str(source)
    folder = Path(source).expanduser()
    advice = "give a folder that novae.Novae.save_pretrained wrote, or 'prism-oncology/novae-human-0'"
    how: dict[str, Any] = {}
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            msg = f"{text!r} holds no config.json; {advice}"
            raise FileNotFoundError(msg)
        text = str(folder)
    elif not text.startswith(("prism-oncology/", "MICS-Lab/")):
        msg = f"{text!r} is neither a folder nor the name of a Novae on the hub; {advice}"
        raise ValueError(msg)
    else:
        how = {"cache_dir": cache_dir(), "local_files_only": not download}
    ways = (
        f"Either (1) load_novae({text!r}, download=True); or (2) download it elsewhere (hf download {text} --local-dir "
        "FOLDER) and give the folder; or (3) set HF_HOME to a cache that holds it, which works offline"
    )
    if how and download and not hub_answers():
        msg = f"{text!r}: {UNREACHABLE}. {ways}"
        raise ConnectionError(msg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and lightning warn of themselves while Novae is built
        try:
            model = Novae.from_pretrained(text, **how)
        except (OSError, TypeError) as error:  # without its config.json the hub's mixin calls Novae without arguments
            msg = f"{text!r} is not in {cache_dir()} or cannot be loaded ({type(error).__name__}). {ways}"
            raise FileNotFoundError(msg) from error
    return NovaeEncoder(model, name=str(source), **options)
