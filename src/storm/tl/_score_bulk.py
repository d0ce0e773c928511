"""``storm.tl.score_bulk`` and ``storm.tl.random_signatures``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from storm._checks import check_genes, check_whole
from storm._logging import warn
from storm.biology.signatures import random_sets, zscore


def score_bulk(table: pd.DataFrame, genes: str | Sequence[str]) -> pd.Series:
    """Score the patients of a cohort by a signature: the mean of its genes' standard scores.

    Parameters
    ----------
    table
        Expression on a log scale, a row per patient and a column per gene.
    genes
        Genes of the signature, such as :func:`storm.get.signature` returns.

    Returns
    -------
    Series
        A score per patient; NaN where all genes are missing.

    Raises
    ------
    TypeError
        If ``table`` is not a data frame, or ``genes`` no list of text.
    ValueError
        If none of the genes is a column, or columns repeat.

    Warns
    -----
    UserWarning
        If genes are missing.

    See Also
    --------
    random_signatures : What to compare the score with.
    storm.metrics.log_rank, storm.metrics.empirical_p : Survival of its high and low halves.

    Examples
    --------
    >>> import pandas as pd
    >>> import storm
    >>> patients = pd.DataFrame({"MS4A1": [5.0, 1.0], "ACTB": [2.0, 2.0]}, index=["P1", "P2"])
    >>> storm.tl.score_bulk(patients, ["MS4A1", "ACTB"]).round(2)
    P1    0.5
    P2   -0.5
    Name: score, dtype: float64
    """
    columns = _columns(table, check_genes(genes), tell=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # patients without any value are NaN
        return pd.Series(zscore(table.to_numpy(dtype=np.float64), columns), index=table.index, name="score")


def random_signatures(
    table: pd.DataFrame, genes: str | Sequence[str], n: int = 1000, *, n_bins: int = 10, seed: int = 0
) -> list[list[str]]:
    """Draw random signatures of the same size, and of genes that are expressed alike.

    Most sets of genes "predict" outcome in a cohort whose expression varies along one main axis. The p-value that
    counts is that against random sets.

    Parameters
    ----------
    table
        Expression on a log scale, a row per patient and a column per gene. If it was standardised gene by gene, means
        are all alike, and the sets are matched by size only.
    genes
        Genes of the signature; those that the table lacks do not count.
    n
        Number of random signatures.
    n_bins
        Number of bins of mean expression from which as many genes are drawn as the signature has there.
    seed
        Random seed.

    Returns
    -------
    list of list of str
        Genes of each random signature.

    Raises
    ------
    TypeError
        If ``table`` is not a data frame, or ``genes`` no list of text.
    ValueError
        If none of the genes is a column, or columns repeat.

    References
    ----------
    Venet, Dumont and Detours, Most random gene expression signatures are significantly associated with breast cancer
    outcome, PLoS Computational Biology 2011.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import storm
    >>> genes = [f"gene{i}" for i in range(100)]
    >>> patients = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 100)), columns=genes)
    >>> null = storm.tl.random_signatures(patients, ["gene3", "gene7"], n=5)
    >>> len(null), len(null[0])
    (5, 2)
    """
    check_whole(n, name="n")
    check_whole(n_bins, name="n_bins")
    check_whole(seed, name="seed", least=0)
    columns = _columns(table, check_genes(genes), tell=False)
    mean = table.mean(axis=0).to_numpy(dtype=np.float64)
    names = np.asarray(table.columns, dtype=object)
    return [list(names[row]) for row in random_sets(mean, columns, n, n_bins=n_bins, seed=seed)]


def _columns(table: pd.DataFrame, genes: list[str], *, tell: bool) -> np.ndarray:
    """Columns of a cohort's table that a signature names."""
    if not isinstance(table, pd.DataFrame):
        msg = f"table is a {type(table).__name__}; give a data frame with a row per patient and a column per gene"
        raise TypeError(msg)
    if table.columns.has_duplicates:
        twice = list(table.columns[table.columns.duplicated()].unique()[:5])
        msg = f"the table has columns more than once, e.g. {twice}; keep one of each gene"
        raise ValueError(msg)
    found = [gene for gene in genes if gene in table.columns]
    if not found:
        turned = "; its rows name genes: give table.T" if any(gene in table.index for gene in genes) else ""
        msg = f"none of the {len(genes)} genes is a column of the table, e.g. {genes[:3]}{turned}"
        raise ValueError(msg)
    if tell and len(found) < len(genes):
        missing = [gene for gene in genes if gene not in table.columns]
        half = ", less than half: the score is hardly that of the signature" if 2 * len(found) < len(genes) else ""
        text = f"{len(found)} of the signature's {len(genes)} genes are in the table{half}; missing: {missing[:10]}"
        warn(text)
    return table.columns.get_indexer(pd.Index(found))
