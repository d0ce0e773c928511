"""Agreement of predicted with measured expression: Pearson's r per gene, and its summaries.

STORM paper (arXiv 2604.03630), figure 3: median r over the 500 most variable genes, r of the top N genes. A
between-slide offset alone can raise the pooled r (in one case from 0.49 to 0.90), so both are reported: r over the
pooled spots, and r within each slide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from storm.metrics._arrays import codes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike
    from scipy.sparse import spmatrix

    from storm.metrics._arrays import Labels

__all__ = ["pearson_per_gene", "score_expression", "top_n_curve"]

#: Values held at once in float64, which bounds the memory at any number of spots.
_BLOCK = 8_000_000


def pearson_per_gene(
    truth: ArrayLike | spmatrix, pred: ArrayLike | spmatrix, *, groups: Labels | None = None
) -> np.ndarray:
    """Pearson's r of each gene over spots.

    Parameters
    ----------
    truth, pred
        Measured and predicted expression on the same scale, shape (n, g), dense or sparse. A spot where either is NaN
        is left out for that gene.
    groups
        Slide of each spot, shape (n,), to correlate within each slide; ``None`` to pool all spots.

    Returns
    -------
    ndarray
        Shape (g,), or (slides, g) with ``groups``, slides in sorted order. NaN where either side is constant (r is not
        defined) or fewer than two spots are left.

    Raises
    ------
    ValueError
        If shapes differ, a value is infinite or not a real number, or a slide is missing.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> truth = np.array([[0.0, 3.0], [1.0, 1.0], [2.0, 2.0]])
    >>> pred = np.array([[0.1, 1.0], [0.9, 1.0], [2.2, 1.0]])
    >>> storm.metrics.pearson_per_gene(truth, pred).round(3)  # the second gene is predicted the same everywhere
    array([0.991,   nan])
    """
    truth, pred = _matrix(truth, name="truth"), _matrix(pred, name="pred")
    if truth.shape != pred.shape:
        msg = f"truth has shape {truth.shape} and pred {pred.shape}; both are (spots, genes), in the same order"
        raise ValueError(msg)
    n, n_genes = truth.shape
    if groups is None:
        return _pearson(truth, pred)
    slide, names = _slides(groups, n)
    r = np.empty((len(names), n_genes))
    for row in range(len(names)):
        members = np.flatnonzero(slide == row)
        r[row] = _pearson(truth[members], pred[members])
    return r


def score_expression(
    truth: ArrayLike | spmatrix, pred: ArrayLike | spmatrix, *, slides: Labels | None = None
) -> dict[str, Any]:
    """Summary of a prediction: median r over genes, pooled and per slide.

    Parameters
    ----------
    truth, pred
        Measured and predicted expression on the same scale, shape (n, g), dense or sparse.
    slides
        Slide of each spot, shape (n,); ``None`` if all spots are from the same slide.

    Returns
    -------
    dict
        ``r``, the pooled r per gene, shape (g,); ``median_r_pooled``, its median; ``median_r_per_slide``, a dict of
        each slide's median over genes; ``median_r_slides``, the mean of those; ``n_spots``, ``n_genes``, ``n_slides``,
        and ``n_undefined``, the number of genes without an r over the pooled spots (constant on either side, or never
        measured), which the medians leave out.

    Raises
    ------
    ValueError
        If shapes differ, a value is infinite or not a real number, or a slide is missing.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(100, 20))
    >>> scores = storm.metrics.score_expression(truth, truth + rng.normal(size=truth.shape))
    >>> float(round(scores["median_r_pooled"], 2)), scores["n_genes"]
    (0.7, 20)
    """
    r = pearson_per_gene(truth, pred)
    n = _matrix(truth, name="truth").shape[0]
    names: list[Any] = [0] if slides is None else _slides(slides, n)[1]
    within = r[None] if slides is None else pearson_per_gene(truth, pred, groups=slides)
    medians = {name: _median(row) for name, row in zip(names, within, strict=True)}
    scored = [value for value in medians.values() if np.isfinite(value)]
    return {
        "r": r,
        "median_r_pooled": _median(r),
        "median_r_slides": float(np.mean(scored)) if scored else float("nan"),
        "median_r_per_slide": medians,
        "n_spots": n,
        "n_genes": len(r),
        "n_slides": len(medians),
        "n_undefined": int(np.isnan(r).sum()),
    }


def top_n_curve(
    r: ArrayLike, *, ns: Sequence[int] = (100, 200, 500, 1000, 1500, 2000), rank_by: ArrayLike | None = None
) -> dict[int, float]:
    """Median r of the top N genes, for growing N (figure 3C of the paper).

    Parameters
    ----------
    r
        r of each gene, shape (g,); NaN genes are left out.
    ns
        Numbers of genes. Those larger than the number of genes with an r are left out.
    rank_by
        Score by which genes are ranked, the highest first, shape (g,): such as the variance or the held-out r of each
        gene on the training slides. ``None`` ranks by ``r`` itself, as in the paper, which flatters the result: the
        genes are then chosen by the very numbers that are reported.

    Returns
    -------
    dict
        Number of genes → median r.

    Raises
    ------
    ValueError
        If shapes differ or a panel size is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> storm.metrics.top_n_curve(np.linspace(0.5, 0.0, 11), ns=(1, 5, 11))
    {1: 0.5, 5: 0.4, 11: 0.25}
    """
    r = np.asarray(r, dtype=np.float64)
    rank = r if rank_by is None else np.asarray(rank_by, dtype=np.float64)
    if r.ndim != 1 or rank.shape != r.shape:
        msg = f"r has shape {r.shape} and rank_by {rank.shape}; both are one number per gene, shape (g,)"
        raise ValueError(msg)
    if any(n < 1 for n in ns):
        msg = f"ns={list(ns)} must be positive panel sizes"
        raise ValueError(msg)
    defined = np.flatnonzero(np.isfinite(r) & ~np.isnan(rank))
    best = r[defined[np.argsort(-rank[defined], kind="stable")]]
    return {int(n): float(np.median(best[:n])) for n in ns if n <= len(best)}


def _matrix(values: Any, *, name: str) -> Any:
    """A dense array or a CSR matrix of real numbers, shape (n, g)."""
    from scipy.sparse import issparse

    matrix = values.tocsr() if issparse(values) else np.asarray(values)
    if matrix.ndim != 2:
        msg = f"{name} has shape {matrix.shape}, expected (spots, genes)"
        raise ValueError(msg)
    if matrix.dtype.kind not in "biuf":
        msg = f"{name} holds {matrix.dtype}, not real numbers; give expression as floats or integers"
        raise ValueError(msg)
    return matrix


def _slides(slides: Labels, n: int) -> tuple[np.ndarray, list[Any]]:
    """Number of each spot's slide, shape (n,), and the names of the slides in sorted order."""
    number, names = codes(slides, name="groups")
    if len(number) != n:
        msg = f"groups have shape ({len(number)},), expected ({n},): the slide of each spot"
        raise ValueError(msg)
    try:
        order = sorted(range(len(names)), key=names.__getitem__)
    except TypeError:
        # Names of several types have no order of their own.
        order = sorted(range(len(names)), key=lambda k: (type(names[k]).__name__, str(names[k])))
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    return rank[number], [names[k] for k in order]


def _pearson(truth: Any, pred: Any) -> np.ndarray:
    """Pearson's r per column, in blocks of columns, so that the full matrix is not copied."""
    from scipy.sparse import issparse

    n, n_genes = truth.shape
    r = np.full(n_genes, np.nan)
    if n < 2:
        return r
    step = max(1, _BLOCK // n)
    # Blocks of columns are slow to cut out of a CSR matrix.
    truth, pred = (m.tocsc() if issparse(m) and step < n_genes else m for m in (truth, pred))
    for start in range(0, n_genes, step):
        x, y = (
            (m[:, start : start + step].toarray() if issparse(m) else m[:, start : start + step]).astype(np.float64)
            for m in (truth, pred)
        )
        r[start : start + step] = _pearson_dense(x, y)
    return r


def _pearson_dense(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r per column of two float64 matrices, which it may overwrite."""
    if np.isinf(x).any() or np.isinf(y).any():
        msg = "truth or pred holds infinite values; correlate finite ones (NaN marks a spot to leave out)"
        raise ValueError(msg)
    gap = np.isnan(x) | np.isnan(y)
    gappy, count = gap.any(), len(x) - gap.sum(axis=0)
    constant = np.zeros(x.shape[1], dtype=bool)
    for side in (x, y):
        # By range and not by variance, because rounding gives a constant column a variance just above zero.
        if gappy:
            constant |= np.where(gap, -np.inf, side).max(axis=0) <= np.where(gap, np.inf, side).min(axis=0)
            side[gap] = 0.0
        else:
            constant |= side.max(axis=0) <= side.min(axis=0)
        side -= side.sum(axis=0) / np.maximum(count, 1)
        if gappy:
            side[gap] = 0.0
    defined = ~constant & (count > 1)
    norm = np.sqrt(np.einsum("ij,ij->j", x, x) * np.einsum("ij,ij->j", y, y))
    defined &= norm > 0
    r = np.full(x.shape[1], np.nan)
    r[defined] = np.clip(np.einsum("ij,ij->j", x, y)[defined] / norm[defined], -1.0, 1.0)
    return r


def _median(r: np.ndarray) -> float:
    defined = r[np.isfinite(r)]
    return float(np.median(defined)) if defined.size else float("nan")
