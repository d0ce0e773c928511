"""Gene sets: reading them, over-representation, and enrichment along a ranking."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Mapping
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from storm.biology.ranks import benjamini_hochberg

#: A set's running sum is compared with that of this many random sets, or of all sets of its size where they are fewer.
PERMUTATIONS = 2000
#: Random numbers that are drawn at a time.
_BLOCK = 2**22


def read_gmt(path: str | Path, *, described: bool = False) -> dict[str, list[str]]:
    """Read gene sets in the GMT format: a set a line, its name, a description, then its genes, between tabs.

    Windows line ends, a byte order mark, empty fields and gzip are read as they are meant. A gene that is in a set
    twice counts once.

    Parameters
    ----------
    path
        The file, ``.gmt`` or ``.gmt.gz``.
    described
        Name the sets by their description and, in brackets, their name, where the name is a number.

    Returns
    -------
    dict
        Genes of each set, in the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line is not a set, a name occurs twice, or there is no set.
    TypeError
        If ``path`` is no path.
    """
    if not isinstance(path, (str, Path)):
        msg = f"sets={path!r} is a {type(path).__name__}; give gene sets as a dictionary, or the path of a GMT file"
        raise TypeError(msg)
    path = Path(path)
    if not path.is_file():
        msg = f"there is no GMT file {str(path)!r}; storm.datasets.gene_sets reads the collections it knows by name"
        raise FileNotFoundError(msg)
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        msg = f"{path} is not a GMT file: {error}; a GMT file is text in UTF-8, or that compressed by gzip"
        raise ValueError(msg) from error
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = [field.strip() for field in line.split("\t")]
        if not any(fields):
            continue
        if len(fields) < 3 or not fields[0]:
            msg = (
                f"{path}, line {number}: {line[:60]!r} is not a gene set; a line of a GMT file is a name, a "
                f"description and genes, between tabs"
            )
            raise ValueError(msg)
        name = f"{fields[1]} ({fields[0]})" if described and fields[1] else fields[0]
        if name in sets:
            msg = f"{path}, line {number}: the set {name!r} is there already; give each set a name of its own"
            raise ValueError(msg)
        sets[name] = list(dict.fromkeys(gene for gene in fields[2:] if gene))
    if not sets:
        msg = f"{path} holds no gene set"
        raise ValueError(msg)
    return sets


def sets_with_genes(
    sets: Mapping[str, Iterable[str]], tested: Iterable[str], *, min_genes: int, max_genes: float
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Sets as far as their genes were tested, and why others are left out.

    Parameters
    ----------
    sets
        Genes by the name of their set; a gene that is there twice counts once.
    tested
        Names of the genes that were tested.
    min_genes, max_genes
        Tested genes that a set has at least and at most.

    Returns
    -------
    kept : dict
        Tested genes of each set that has enough of them.
    left_out : dict
        Reason by set.
    """
    known = set(tested)
    kept, left_out = {}, {}
    for name, genes in sets.items():
        every = dict.fromkeys(genes)
        own = [gene for gene in every if gene in known]
        if not min_genes <= len(own) <= max_genes:
            few = len(own) < min_genes
            left_out[name] = f"{'fewer' if few else 'more'} than {min_genes if few else max_genes} tested genes"
        else:
            kept[name] = own
    return kept, left_out


def over_representation(
    selected: Iterable[str], tested: Iterable[str], sets: Mapping[str, Iterable[str]]
) -> pd.DataFrame:
    """Test by Fisher's exact test, one-sided, whether more selected genes are in a set than by chance.

    Sets without a selected gene are tests too: leaving them out before the correction, as some packages do, makes the
    others look better than they are.

    Parameters
    ----------
    selected
        Selected genes; those that were not tested do not count.
    tested
        All genes that could have been selected: the background.
    sets
        Genes by the name of their set; those that were not tested do not count.

    Returns
    -------
    DataFrame
        A row per set, in the order given: ``set``, ``n_genes`` (tested), ``n_overlap``, ``expected``, ``odds_ratio``
        (sample odds ratio; infinite where no tested gene of the set is left unselected), ``pvals``, ``pvals_adj``
        (Benjamini-Hochberg over all sets), ``genes`` (the overlap, between commas).
    """
    background = set(tested)
    chosen = set(selected) & background
    total, n = len(background), len(chosen)
    rows = []
    for name, genes in sets.items():
        own = [gene for gene in dict.fromkeys(genes) if gene in background]
        hits = [gene for gene in own if gene in chosen]
        k, size = len(hits), len(own)
        against = (n - k) * (size - k)
        odds = k * (total - size - n + k) / against if against else (np.inf if k else np.nan)
        p = float(hypergeom.sf(k - 1, total, size, n))
        rows.append((name, size, k, n * size / total if total else np.nan, odds, p, ",".join(hits)))
    columns = ["set", "n_genes", "n_overlap", "expected", "odds_ratio", "pvals", "genes"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.insert(6, "pvals_adj", benjamini_hochberg(frame["pvals"].to_numpy(dtype=float)))
    return frame


def preranked_enrichment(
    scores: Mapping[str, float] | pd.Series,
    sets: Mapping[str, Iterable[str]],
    *,
    weight: float = 1.0,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Gene set enrichment analysis of a ranking.

    The running sum of a set rises by |score|^weight at its genes and falls at the others; its largest deviation from
    zero is the enrichment score. Its null distribution is that of random sets of the same size: of all of them where
    they are at most ``permutations``, else of that many. The normalised score is the score over the mean of the null
    scores of its sign, and the p-value the share of these that are at least as large.

    Parameters
    ----------
    scores
        Score of each gene that was tested, finite.
    sets
        Genes by the name of their set; those without a score do not count. Each has at least one gene with a score.
    weight
        Exponent; 0 is the Kolmogorov-Smirnov statistic.
    permutations
        Number of random sets of each size; those of a smaller size are parts of those of a larger one.
    seed
        Random seed of these.

    Returns
    -------
    DataFrame
        A row per set, in the order given: ``set``, ``n_genes``, ``es``, ``nes``, ``pvals``, ``pvals_adj``
        (Benjamini-Hochberg over all sets), ``genes`` (the leading edge, between commas).

    References
    ----------
    Subramanian et al., Gene set enrichment analysis, PNAS 2005.
    """
    ranking = pd.Series(scores, dtype=np.float64).sort_values(ascending=False, kind="stable")
    place = {gene: at for at, gene in enumerate(ranking.index)}
    strength = np.abs(ranking.to_numpy()) ** weight
    places = {
        name: np.sort([place[gene] for gene in dict.fromkeys(genes) if gene in place]) for name, genes in sets.items()
    }
    largest = max(map(len, places.values()), default=0)
    draws = _draw(len(ranking), largest, permutations, np.random.default_rng(seed))
    nulls: dict[int, tuple[np.ndarray, bool]] = {}
    rows = []
    for name, hits in places.items():
        es, edge = _score(hits[None], strength)
        if len(hits) not in nulls:
            nulls[len(hits)] = _null(len(hits), strength, draws)
        null, exact = nulls[len(hits)]
        value = float(es[0])
        same = null[null > 0] if value >= 0 else null[null < 0]
        as_large = int((np.abs(same) >= abs(value) - 1e-12).sum())
        mean = float(np.abs(same).mean()) if len(same) else np.nan
        # An estimated p-value is never zero: the set itself is one of its draws.
        p = as_large / len(same) if exact and len(same) else (as_large + 1) / (len(same) + 1)
        leading = hits[hits <= edge[0]] if value >= 0 else hits[hits > edge[0]]
        rows.append((name, len(hits), value, value / mean, p, ",".join(map(str, ranking.index[leading]))))
    frame = pd.DataFrame(rows, columns=["set", "n_genes", "es", "nes", "pvals", "genes"])
    frame.insert(5, "pvals_adj", benjamini_hochberg(frame["pvals"].to_numpy(dtype=float)))
    return frame


def _score(hits: np.ndarray, strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Enrichment scores of sets of one size, and the place in the ranking at which the running sum is extreme.

    Of equal deviations the first counts.

    Parameters
    ----------
    hits
        Places of the genes of each set in the ranking, ascending, shape (sets, k).
    strength
        Weight of each place, shape (n,).
    """
    each, n = np.arange(len(hits)), len(strength)
    steps = np.full((len(hits), n), -1 / max(n - hits.shape[1], 1))
    steps[each[:, None], hits] = _rises(hits, strength)
    running = np.cumsum(steps, axis=1)
    at = abs(running).argmax(axis=1)
    return running[each, at], at


def _rises(hits: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """How far the running sum rises at each gene of a set, shape (sets, k)."""
    weights = strength[hits]
    total = weights.sum(axis=1, keepdims=True)
    # A set whose scores are all zero has no weights to go by: its genes count alike.
    return np.where(total > 0, weights / np.where(total > 0, total, 1), 1 / hits.shape[1])


def _extreme(hits: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The same scores from the genes of the sets alone: the running sum is extreme at one of them, or just before."""
    k = hits.shape[1]
    steps = _rises(hits, strength)
    fallen = (hits - np.arange(k)) / max(len(strength) - k, 1)
    risen = np.cumsum(steps, axis=1)
    high, low = (risen - fallen).max(axis=1), (risen - steps - fallen).min(axis=1)
    return np.where(high >= -low, high, low)


def _draw(n: int, k: int, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Random places in a ranking of n genes, shape (permutations, k), of which the first few are a random set too."""
    parts = [np.empty((0, k), dtype=np.int64)]
    step = max(1, _BLOCK // n)
    for start in range(0, permutations, step):
        keys = rng.random((min(step, permutations - start), n), dtype=np.float32)
        parts.append(rng.permuted(np.argpartition(keys, min(k, n - 1), axis=1)[:, :k], axis=1))
    return np.concatenate(parts)


def _null(k: int, strength: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, bool]:
    """Scores of random sets of k genes, and whether they are all sets of that size."""
    n = len(strength)
    if comb(n, k) <= len(draws):
        return _score(np.array(list(combinations(range(n), k))), strength)[0], True
    return _extreme(np.sort(draws[:, :k], axis=1), strength), False
