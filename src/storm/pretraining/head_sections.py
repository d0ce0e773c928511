"""Sections that an expression head is trained on: their genes and targets, and what is held out while it is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import csr_matrix, vstack

from storm.data.genes import Vocabulary, match_genes
from storm.data.libraries import Library, shared_library
from storm.data.normalise import log_normalise
from storm.metrics.expression import pearson_per_gene
from storm.model.heads import ExpressionMLP
from storm.pretraining.head import HeadConfig, apply_head
from storm.pretraining.head_choice import choose_head
from storm.pretraining.ridge import PENALTIES

#: Parts along x into which a single section is divided, each of which is held out in turn.
_PARTS = 5
#: Gap on either side of a held-out part, in windows: no window is on both sides.
_GAP = 1.0
#: Fewest spots on which a fold can be trained or a correlation computed.
_LEAST_SPOTS = 3


@dataclass(frozen=True, kw_only=True)
class HeadSection:
    """One section to train a head on: features and counts of all its spots.

    Attributes
    ----------
    features
        H&E features, shape (n, f); NaN rows have none.
    counts
        Raw counts, shape (n, g).
    names
        Names of the genes in the table, shape (g,).
    symbols
        The same genes by symbol where their Ensembl id is known, shape (g,).
    train
        Spots to train on, bool, shape (n,).
    centres
        x and y, shape (n, 2).
    reach
        How far a window reaches, in the units of the centres.
    library
        Genes whose counts add up to the library size.
    tiles
        Tile embeddings as the encoder gives them, shape (n, he_dim), if they are needed.
    """

    features: np.ndarray
    counts: csr_matrix
    names: Sequence[str]
    symbols: Sequence[str]
    train: np.ndarray
    centres: np.ndarray
    reach: float
    library: Library = field(default_factory=Library)
    tiles: np.ndarray | None = None

    @property
    def usable(self) -> np.ndarray:
        """Spots with features and counts, bool, shape (n,)."""
        columns = self.library.columns(self.symbols)
        total = (self.counts if columns is None else self.counts[:, columns]).sum(axis=1)
        return np.isfinite(self.features).all(axis=1) & (np.asarray(total).ravel() > 0)

    @property
    def rows(self) -> np.ndarray:
        """Rows of the spots to train on that are usable."""
        return np.flatnonzero(self.usable & self.train)

    def expression(self) -> csr_matrix:
        """log1p-normalised expression, shape (n, g)."""
        return log_normalise(self.counts, library=self.library.columns(self.symbols))


def with_common_library(sections: Sequence[HeadSection]) -> tuple[list[HeadSection], list[float]]:
    """Give all sections a library that can be compared between them.

    Returns
    -------
    sections : list of HeadSection
        The same with their library.
    shares : list of float
        Share of each section's counts in the genes that all sections measure.

    Raises
    ------
    ValueError
        As :func:`storm.data.libraries.shared_library`.
    """
    totals = [np.asarray(section.counts.sum(axis=0), dtype=np.float64).ravel() for section in sections]
    library, shares = shared_library([section.symbols for section in sections], totals)
    return [replace(section, library=library) for section in sections], shares


def variable_genes(
    sections: Sequence[HeadSection], n_genes: int | None, *, measured_by: Sequence[HeadSection] = ()
) -> list[str]:
    """Choose the genes that vary most over the training spots, among those that all sections measure.

    Parameters
    ----------
    sections
        Sections with their library.
    n_genes
        Number of genes; ``None`` for all that vary.
    measured_by
        Further sections that have to measure the genes.

    Returns
    -------
    list of str
        Their names in the first section, in its order.

    Raises
    ------
    ValueError
        If the sections have no gene in common.
    """
    columns = [{name.upper(): i for i, name in reversed(list(enumerate(s.symbols)))} for s in (*sections, *measured_by)]
    common = list(dict.fromkeys(name.upper() for name in sections[0].symbols))
    common = [key for key in common if all(key in own for own in columns)]
    if not common:
        msg = "the sections have no gene in common; name their genes the same way (symbols or Ensembl ids)"
        raise ValueError(msg)
    variance = np.zeros(len(common))
    for section, own in zip(sections, columns, strict=False):  # those of measured_by come last
        x = section.expression()[section.rows][:, [own[key] for key in common]]
        mean = np.asarray(x.mean(axis=0)).ravel()
        variance += np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
    if n_genes is None:
        # Without a count in the training spots there is nothing to learn.
        n_genes = int((variance > 0).sum())
    top = np.sort(np.argsort(-variance, kind="stable")[:n_genes])
    return [str(sections[0].names[columns[0][common[i]]]) for i in top]


def targets(section: HeadSection, symbols: Sequence[str]) -> csr_matrix:
    """Expression of some genes, log1p-normalised, shape (n, len(symbols)).

    Parameters
    ----------
    section
        A section that measures all of them; see :func:`not_measured`.
    symbols
        The genes, by symbol where their Ensembl id is known.
    """
    index = match_genes(section.symbols, Vocabulary(tuple(symbols))).index
    columns = np.empty(len(symbols), dtype=int)
    known = np.flatnonzero(index >= 0)
    columns[index[known]] = known
    return section.expression()[:, columns]


def not_measured(sections: Sequence[HeadSection], symbols: Sequence[str]) -> list[int]:
    """Positions of the genes that a section lacks.

    Parameters
    ----------
    sections
        Sections.
    symbols
        The genes, by symbol where their Ensembl id is known.
    """
    vocabulary = Vocabulary(tuple(symbols))
    measured = [set(match_genes(section.symbols, vocabulary).index.tolist()) for section in sections]
    return [i for i in range(len(symbols)) if not all(i in own for own in measured)]


@dataclass(frozen=True, eq=False)
class Recipe:
    """What was chosen on spots that were held out in turn, and how a head did on them.

    Attributes
    ----------
    config
        Recipe with numbers for its penalty and epochs.
    scores
        Pearson correlation of each gene in each held-out section (or part of the only one), shape (k, g).
    held_out
        Description of the spots that were held out.
    predictions
        Of each section the expression of its ``rows`` by a head that was not trained on them, float32, shape (rows, g);
        NaN where a spot was not held out.
    n_patients
        Patients that were held out in turn; 1 where sections or parts of them were.
    chosen_by
        Description of what the choice rests on.
    """

    config: HeadConfig
    scores: np.ndarray
    held_out: str
    predictions: list[np.ndarray]
    n_patients: int
    chosen_by: str

    @property
    def reliability(self) -> np.ndarray:
        """Mean of the scores of each gene, shape (g,); NaN where nothing was held out."""
        return mean_over_sections(self.scores)

    @property
    def lowest(self) -> np.ndarray:
        """Lowest score of each gene, shape (g,); NaN where nothing was held out."""
        lowest = np.where(np.isfinite(self.scores), self.scores, np.inf).min(axis=0)
        return np.where(np.isfinite(lowest), lowest, np.nan)


def choose_recipe(
    sections: Sequence[HeadSection],
    expression: Sequence[csr_matrix],
    config: HeadConfig,
    *,
    groups: Sequence[str] | None,
) -> Recipe:
    """Choose what the recipe leaves open, and measure each gene's reliability, on spots that are held out in turn.

    Parameters
    ----------
    sections
        Sections.
    expression
        Expression of the chosen genes in each section, of shape (n, g).
    config
        Recipe.
    groups
        Patient of each section.

    Returns
    -------
    Recipe
    """
    rows = [section.rows for section in sections]
    owner = np.repeat(np.arange(len(sections)), [len(r) for r in rows])
    x = np.concatenate([section.features[r] for section, r in zip(sections, rows, strict=True)])
    y = csr_matrix(vstack([values[r] for values, r in zip(expression, rows, strict=True)]))
    n_patients, kind = 1, "part"
    if len(sections) == 1:
        folds = _along_x(sections[0].centres[rows[0], 0], sections[0].reach)
        held_out = "each fifth along x left out in turn, mean"
    else:
        if groups is not None and len(set(groups)) > 1:
            label, kind, n_patients = np.array(groups)[owner], "group", len(set(groups))
        else:
            label, kind = owner, "section"
        folds = [(np.flatnonzero(label != one), np.flatnonzero(label == one)) for one in dict.fromkeys(label.tolist())]
        held_out = f"each {kind} in turn left out of training, mean over sections"
    folds = [(train, test) for train, test in folds if min(len(train), len(test)) >= _LEAST_SPOTS]
    scores = np.full((1, y.shape[1]), np.nan)
    if folds:
        open_values = [name for name in ("penalty", "epochs") if getattr(config, name) is None]
        config, predictions = choose_head(x, y, folds, config, patients=kind == "group")
        chosen_by = _choice(open_values, config, n_folds=len(folds), kind=kind)
        parts = [test[owner[test] == i] for _, test in folds for i in np.unique(owner[test])]
        scores = np.stack([_correlation(y[part], predictions[part]) for part in parts])
    else:
        strongest = max(PENALTIES) if config.penalty is None else config.penalty
        config = replace(config, penalty=strongest, epochs=config.epochs or 0)
        held_out = "not measured: there are too few spots to set some aside"
        chosen_by = "nothing: there are too few spots to set some aside"
        predictions = np.broadcast_to(np.float32(np.nan), y.shape)
    by_section = np.split(predictions, np.cumsum([len(own) for own in rows])[:-1])
    return Recipe(config, scores, held_out, by_section, n_patients, chosen_by)


def _choice(chosen: Sequence[str], config: HeadConfig, *, n_folds: int, kind: str) -> str:
    """What a choice rests on, for the notes of a head."""
    if not chosen:
        return "nothing: penalty and epochs were given"
    rule = (
        "the best" if config.keep == 1 else f"the most cautious with {config.keep:.0%} of the best's explained variance"
    )
    what = {"group": "patients", "section": "sections", "part": "parts of the section"}[kind]
    return f"{rule} on {n_folds} {what}, each held out in turn ({' and '.join(chosen)})"


def held_out_correlation(head: ExpressionMLP, section: HeadSection, expression: csr_matrix) -> np.ndarray:
    """Correlation of each gene over the spots of a section that were not trained on, shape (g,)."""
    rows = np.flatnonzero(section.usable & ~section.train)
    return _correlation(expression[rows], apply_head(head, section.features[rows]))


def mean_over_sections(scores: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Mean of scores of shape (g,), each over the sections in which it is not NaN; shape (g,)."""
    stacked = np.stack(list(scores))
    known = np.isfinite(stacked)
    total = np.where(known, stacked, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def _along_x(x: np.ndarray, reach: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to train on and rows that are held out, for each part of a section along x."""
    edges = np.quantile(x, np.linspace(0, 1, _PARTS + 1))
    part = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, _PARTS - 1)
    folds = []
    for k in range(_PARTS):
        near = (x > edges[k] - _GAP * reach) & (x < edges[k + 1] + _GAP * reach)
        folds.append((np.flatnonzero(~near), np.flatnonzero(part == k)))
    return folds


def _correlation(truth: csr_matrix, predicted: np.ndarray) -> np.ndarray:
    return pearson_per_gene(truth, predicted) if len(predicted) >= _LEAST_SPOTS else np.full(truth.shape[1], np.nan)
